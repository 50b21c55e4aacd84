#!/usr/bin/env bash
# Build the image and run the demo analysis in it: no network, read-only root, non-root user.
#   docker/check.sh [BUILD OPTION...]     such as --build-arg VARIANT=cpu; see docs/docker.md
# ENGINE selects docker, podman or buildah; by default the first that works. IMAGE is the image's name; with BUILD=no it
# must exist already.
set -euo pipefail
cd "$(dirname "$0")/.."
image=${IMAGE:-onnxinfo:check}
user=12345:12345

works() {
    case $1 in
        docker | podman) command -v "$1" && "$1" info ;;
        buildah) command -v buildah && [ "$(id -u)" = 0 ] ;;
    esac >/dev/null 2>&1
}

engine=${ENGINE:-}
for each in docker podman buildah; do
    if [ -z "$engine" ] && works "$each"; then engine=$each; fi
done
[ -n "$engine" ] || { echo "no docker or podman that runs, and no buildah with root's rights" >&2; exit 2; }

folder=$(mktemp -d)
mkdir "$folder/data"
cp docker/probe.py "$folder/data/"
chmod 755 "$folder"
chown -R "$user" "$folder/data" 2>/dev/null || user="$(id -u):$(id -g)"
container="" root=""
finish() {
    if [ -n "$container" ]; then buildah rm "$container" >/dev/null; fi
    rm -rf "$folder"
}
trap finish EXIT

build() {
    case $engine in
        buildah) buildah build --isolation chroot --tag "$image" "$@" . ;;
        *) "$engine" build --tag "$image" "$@" . ;;
    esac
}

size() {
    case $engine in
        buildah) buildah images --format '{{.Size}}' "$image" ;;
        *) "$engine" image inspect --format '{{.Size}}' "$image" | awk '{printf "%.2f GB\n", $1 / 1e9}' ;;
    esac
}

# Run a program of the image on the mounted folder, confined.
inside() {
    if [ "$engine" != buildah ]; then
        "$engine" run --rm --network none --read-only --tmpfs /tmp --cap-drop ALL --security-opt no-new-privileges \
            --user "$user" --volume "$folder/data:/data" --entrypoint "$1" "$image" "${@:2}"
        return
    fi
    local settings
    mapfile -t settings < <(buildah inspect --format '{{range .OCIv1.Config.Env}}{{println .}}{{end}}' "$container" | sed '/^$/d')
    # Buildah's own `run` has no read-only root: kernel namespaces provide the same confinement.
    unshare --mount --net --ipc --uts --pid --fork sh -euc '
        root=$1 data=$2 user=$3; shift 3
        mkdir -p "$root/data"
        mount --bind "$root" "$root"
        mount --bind "$data" "$root/data"
        mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
        mount -t proc proc "$root/proc"
        mount --rbind /dev "$root/dev"
        mount -o remount,bind,ro "$root"
        exec setpriv --no-new-privs chroot --userspec="$user" --groups="" "$root" \
            /usr/bin/env -i "$@"' sh "$root" "$folder/data" "$user" "${settings[@]}" /bin/sh -c 'cd /data; exec "$@"' sh "$@"
}

echo "engine: $engine ($("$engine" --version | head -n 1))"
began=$SECONDS
if [ "${BUILD:-yes}" = yes ]; then
    build "$@" >"$folder/build.log" 2>&1 || { tail -n 30 "$folder/build.log" >&2; exit 1; }
    echo "build: $((SECONDS - began)) s"
fi
echo "image size: $(size)"
if [ "$engine" = buildah ]; then
    container=$(buildah from "$image")
    root=$(buildah mount "$container")
fi

inside python probe.py
inside python -c 'import json, sys; bill = json.load(open(sys.prefix + "/sbom.cdx.json"))
print("bill of materials:", len(bill["components"]), "packages")'
began=$SECONDS
inside onnxinfo --quiet demo --output demo
echo "demo: $((SECONDS - began)) s"
echo "archive: $(inside onnxinfo validate demo/digits.h5)"
samples=$(inside python -c 'from onnxinfo.models import path; print(path("digits.npz"))')
model=$(inside python -c 'from onnxinfo.models import path; print(path("torch-digits-cnn.onnx"))')
began=$SECONDS
inside onnxinfo --quiet oneshot "$model" --inputs "$samples:images" --limit 4 --output out
echo "oneshot: $((SECONDS - began)) s: $(cd "$folder/data/out" && ls -m ./*.h5 ./*.png ./*.html)"
inside onnxinfo --quiet validate out/torch-digits-cnn.h5
strangers=$(find "$folder/data" ! -user "${user%:*}" | head -n 3)
[ -z "$strangers" ] || { echo "not the caller's: $strangers" >&2; exit 1; }
echo "owner of all files: the caller, $user"
echo "all checks passed"
