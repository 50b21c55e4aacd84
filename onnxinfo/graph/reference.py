"""ONNX's reference evaluator, restricted to lists of allowed operators and image formats.

It was written for clarity, not for untrusted models: its ImageDecoder opens any format that Pillow supports, and Pillow
starts other programs for some. Operators added in later releases of onnx run here only after they are listed.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun
from onnx.reference.ops._op_list import load_op
from PIL import Image, UnidentifiedImageError

from ..inputs.images import MAX_PIXELS
from . import protos

Array = npt.NDArray[Any]

#: Pillow's names of the formats in the specification of ImageDecoder; none of them starts another program.
FORMATS = ("BMP", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
_MAIN = """
    Abs Acos Acosh Add AffineGrid And ArgMax ArgMin Asin Asinh Atan Atanh Attention AveragePool BatchNormalization
    Bernoulli BitCast BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor BlackmanWindow Cast CastLike
    CausalConvWithState Ceil Celu CenterCropPad Clip Col2Im Compress Concat ConcatFromSequence Constant
    ConstantOfShape Conv ConvInteger ConvTranspose Cos Cosh CumProd CumSum DFT DeformConv DepthToSpace
    DequantizeLinear Det Div Dropout DynamicQuantizeLinear Einsum Elu Equal Erf Exp Expand EyeLike Flatten Floor GRU
    Gather GatherElements GatherND Gelu Gemm GlobalAveragePool GlobalLpPool GlobalMaxPool Greater GreaterOrEqual
    GridSample GroupNormalization HammingWindow HannWindow HardSigmoid HardSwish Hardmax Identity If ImageDecoder
    InstanceNormalization IsInf IsNaN LRN LSTM LayerNormalization LeakyRelu Less LessOrEqual LinearAttention Log
    LogSoftmax Loop LpNormalization LpPool MatMul MatMulInteger Max MaxPool MaxRoiPool MaxUnpool Mean
    MeanVarianceNormalization MelWeightMatrix Min Mish Mod Mul Multinomial Neg NegativeLogLikelihoodLoss
    NonMaxSuppression NonZero Not OneHot Optional OptionalGetElement OptionalHasElement Or PRelu Pad Pow QLinearConv
    QLinearMatMul QuantizeLinear RMSNormalization RNN RandomNormal RandomNormalLike RandomUniform RandomUniformLike
    Range Reciprocal ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd
    ReduceSum ReduceSumSquare Relu Reshape Resize ReverseSequence RoiAlign RotaryEmbedding Round STFT Scan Scatter
    ScatterElements ScatterND Selu SequenceAt SequenceConstruct SequenceEmpty SequenceErase SequenceInsert
    SequenceLength SequenceMap Shape Shrink Sigmoid Sign Sin Sinh Size Slice Softmax SoftmaxCrossEntropyLoss
    Softplus Softsign SpaceToDepth Split SplitToSequence Sqrt Squeeze StringConcat StringNormalizer StringSplit Sub
    Sum SwiGLU Swish Tan Tanh TensorScatter TfIdfVectorizer ThresholdedRelu Tile TopK Transpose Trilu Unique
    Unsqueeze Upsample Where Xor
"""
_ML = """
    ArrayFeatureExtractor Binarizer DictVectorizer FeatureVectorizer Imputer LabelEncoder LinearClassifier
    LinearRegressor Normalizer OneHotEncoder SVMClassifier SVMRegressor Scaler TreeEnsemble TreeEnsembleClassifier
    TreeEnsembleRegressor
"""
#: Operators by domain that neither start programs nor open files. RegexFullMatch is missing: with Python's ``re``, some
#: patterns never terminate.
OPERATORS = {
    "": frozenset(_MAIN.split()),
    "ai.onnx.ml": frozenset(_ML.split()),
    "ai.onnx.preview.training": frozenset(["Adagrad", "Adam", "Momentum"]),
}


# The evaluator has one implementation, usually the newest, for several versions of most operators. For these operators,
# the versions from the given one on are equivalent, if a node has no attribute that the implemented version lacks.
_ALWAYS_SAME = """
    Abs Acos Acosh Add And ArgMax ArgMin Asin Asinh Atan Atanh Cast Ceil Concat Constant Conv ConvTranspose Cos
    Cosh Div Elu Equal Erf Exp Flatten Floor Gather Gemm GlobalAveragePool GlobalLpPool GlobalMaxPool Greater
    HardSigmoid Identity InstanceNormalization LRN LeakyRelu Less Log MatMul Max MaxPool Mean Min Mul Neg Not Or
    Pow Reciprocal ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd
    ReduceSum ReduceSumSquare Relu Shape Sigmoid Sign Sin Sinh Size Softplus Softsign Split Sqrt Squeeze Sub Sum
    Tan Tanh Tile Transpose Unsqueeze Where Xor
"""
_SAME_SINCE = {
    **dict.fromkeys(_ALWAYS_SAME.split(), 1),
    **{"AveragePool": 19, "BatchNormalization": 14, "Clip": 11, "Hardmax": 13, "LogSoftmax": 13, "PRelu": 7, "Pad": 11},
    **{"Reshape": 5, "Selu": 6, "Slice": 10, "Softmax": 13},
}
# Attributes that never affected a result.
_IDLE = {"consumed_inputs"}


def means_the_same(node: onnx.NodeProto, opset: int) -> bool:
    """Whether the reference evaluator computes a node of ONNX's standard operators as an opset defines it.

    It has only the newest version of most operators, and applies it to older nodes: ``Add`` of opset 6 with its
    ``axis``, or ``Softmax`` of opset 12, would silently give wrong results.

    Parameters
    ----------
    node
        The node.
    opset
        Version of the operators that the model imports.
    """
    asked = onnx.defs.get_schema(node.op_type, opset, node.domain)
    try:
        served = _served(node.op_type, opset)
    except Exception:
        return False
    if asked.since_version == served.since_version:
        return True
    since = _SAME_SINCE.get(node.op_type)
    known = {*served.attributes, *_IDLE}
    return (
        since is not None
        and min(asked.since_version, served.since_version) >= since
        and all(attribute.name in known for attribute in node.attribute)
    )


def _served(operator: str, opset: int) -> onnx.defs.OpSchema:
    """The definition that the evaluator implements; its classes are named after old versions, as in ``Slice_1``."""
    found = load_op("", operator, opset, evaluator_cls=ReferenceEvaluator)
    _, _, version = getattr(found, "__name__", "").rpartition("_")
    if not isinstance(found, type):
        # A function is evaluated by its body in the opset's own definition.
        return onnx.defs.get_schema(operator, opset, "")
    return onnx.defs.get_schema(operator, int(version) if version.isdecimal() else onnx.defs.onnx_opset_version(), "")


class ImageDecoder(OpRun):
    """ONNX's operator ImageDecoder, restricted to listed formats and images of bounded size."""

    def _run(self, encoded: Array, pixel_format: str = "RGB") -> tuple[Array]:
        mode = {"RGB": "RGB", "BGR": "RGB", "Grayscale": "L"}.get(pixel_format)
        if mode is None:
            raise ValueError(f"pixel_format {pixel_format!r} is not one of RGB, BGR and Grayscale")
        try:
            opened = Image.open(io.BytesIO(encoded.tobytes()), formats=FORMATS)
        except UnidentifiedImageError:
            raise ValueError(f"the image is damaged, or of none of the formats {', '.join(FORMATS)}") from None
        with opened as image:
            if image.width * image.height > MAX_PIXELS:
                raise ValueError(f"an image of {image.width}x{image.height} pixels, expected at most {MAX_PIXELS}")
            pixels = np.asarray(image.convert(mode)).reshape(image.height, image.width, -1)
        return (pixels[:, :, ::-1] if pixel_format == "BGR" else pixels,)


def is_listed(node: onnx.NodeProto) -> bool:
    """Whether the reference evaluator may run a node's operator."""
    return node.op_type in OPERATORS.get("" if node.domain == "ai.onnx" else node.domain, ())


class _StoppedError(Exception):
    """Raised in the evaluator between two nodes if it should stop."""


class _Evaluator(ReferenceEvaluator):
    stopped = False

    def _log(self, level: int, pattern: str, *args: Any) -> None:
        """Called before every node, which allows stopping."""
        if self.stopped:
            raise _StoppedError


class Reference:
    """A model in the reference evaluator.

    Parameters
    ----------
    model
        The model.

    Raises
    ------
    NotImplementedError
        An operator is not listed, or the evaluator does not support it.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        own = {(function.domain, function.name) for function in model.functions}
        for node in _nodes(model):
            if (node.domain, node.op_type) not in own and not is_listed(node):
                raise NotImplementedError(f"the reference evaluator is not given operator {node.op_type}")
        self._evaluator = _Evaluator(model, new_ops=[ImageDecoder])

    def run(self, feeds: Mapping[str, Any]) -> list[Any]:
        """Compute every graph output.

        Parameters
        ----------
        feeds
            Values by the names of the graph inputs.
        """
        return list(self._evaluator.run(None, dict(feeds)))

    def stop(self) -> None:
        """Stop a run in another thread before its next node, and all later runs."""
        self._evaluator.stopped = True


def _nodes(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    for nodes in (model.graph.node, *(function.node for function in model.functions)):
        yield from protos.nested(nodes)
