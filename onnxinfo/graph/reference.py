"""ONNX's reference evaluator, kept to operators and image formats on a list.

It is written to be read, not to stand up to untrusted models: its ImageDecoder opens whatever Pillow knows, and Pillow
starts other programs for some formats. Operators that a later release of onnx adds run here only once they are listed.
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
from PIL import Image

from ..inputs.images import MAX_PIXELS
from . import protos

Array = npt.NDArray[Any]

#: Pillow's names of the formats that the specification of ImageDecoder lists; none of them starts another program.
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
#: patterns never end.
OPERATORS = {"": frozenset(_MAIN.split()), "ai.onnx.ml": frozenset(_ML.split())}


class ImageDecoder(OpRun):
    """ONNX's operator ImageDecoder for formats on a list, and for images of bounded size."""

    def _run(self, encoded: Array, pixel_format: str = "RGB") -> tuple[Array]:
        mode = {"RGB": "RGB", "BGR": "RGB", "Grayscale": "L"}.get(pixel_format)
        if mode is None:
            raise ValueError(f"pixel_format {pixel_format!r} is not one of RGB, BGR and Grayscale")
        with Image.open(io.BytesIO(encoded.tobytes()), formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ValueError(f"an image of {image.width}x{image.height} pixels, expected at most {MAX_PIXELS}")
            pixels = np.asarray(image.convert(mode)).reshape(image.height, image.width, -1)
        return (pixels[:, :, ::-1] if pixel_format == "BGR" else pixels,)


def is_listed(node: onnx.NodeProto) -> bool:
    """Whether the reference evaluator may run a node's operator."""
    return node.op_type in OPERATORS.get("" if node.domain == "ai.onnx" else node.domain, ())


class Reference:
    """A model in the reference evaluator.

    Parameters
    ----------
    model
        The model.

    Raises
    ------
    NotImplementedError
        An operator is not on the list, or the evaluator does not have it.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        own = {(function.domain, function.name) for function in model.functions}
        for node in _nodes(model):
            if (node.domain, node.op_type) not in own and not is_listed(node):
                raise NotImplementedError(f"the reference evaluator is not given operator {node.op_type}")
        self._evaluator = ReferenceEvaluator(model, new_ops=[ImageDecoder])

    def run(self, feeds: Mapping[str, Any]) -> list[Any]:
        """Compute every graph output.

        Parameters
        ----------
        feeds
            Values by the names of the graph inputs.
        """
        return list(self._evaluator.run(None, dict(feeds)))


def _nodes(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    for nodes in (model.graph.node, *(function.node for function in model.functions)):
        yield from protos.nested(nodes)
