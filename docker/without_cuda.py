"""Remove the parts of torch's CUDA wheel that are never loaded without a GPU.

torch's libraries are linked against some of NVIDIA's, which stay, because torch cannot be imported without them. Those
loaded only for GPU computations are removed (cuDNN's engines, cuSOLVER, transports of NVSHMEM, profilers), as are
Triton and headers. With torch's CPU wheel there is nothing to remove.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

LOADED_LATER = (
    "libcudnn_*",
    "libcusolver*",
    "libnvperf_*",
    "libnvrtc-builtins*",
    "libnvshmem_transport_*",
    "libnvshmem_bootstrap_*",
    "libcheckpoint*",
    "*.bc",
    "*.a",
)
FOR_COMPILERS = ("triton", "nvidia/*/include", "nvidia/*/bin", "torch/include")


def remove(packages: Path) -> int:
    """Remove the files.

    Parameters
    ----------
    packages
        Folder of installed packages.

    Returns
    -------
    int
        Number of bytes freed.
    """
    folders = [folder for pattern in FOR_COMPILERS for folder in packages.glob(pattern)]
    files = [file for pattern in LOADED_LATER for file in (packages / "nvidia").rglob(pattern)]
    files += [file for folder in folders for file in folder.rglob("*")]
    freed = sum(file.lstat().st_size for file in set(files) if file.is_file() or file.is_symlink())
    for file in files:
        if not file.is_dir():
            file.unlink(missing_ok=True)
    for folder in folders:
        shutil.rmtree(folder)
    return freed


def main() -> None:
    """Remove the files, and check that torch still computes."""
    print(f"{remove(Path(sysconfig.get_path('platlib'))) / 1e9:.1f} GB of CUDA removed")
    computes = "import torch, torchvision; torch.linalg.svd(torch.fft.rfft(torch.eye(8) @ torch.ones(8, 8)))"
    subprocess.run([sys.executable, "-c", computes], check=True)


if __name__ == "__main__":
    main()
