"""Operators by what they do in a network."""

CONVOLUTIONS = {
    "Conv", "ConvInteger", "ConvTranspose", "ConvTransposeWithDynamicPads", "DeformConv", "FusedConv", "NhwcConv",
    "NhwcFusedConv", "QLinearConv",
}  # fmt: skip
PRODUCTS = {
    "DynamicQuantizeMatMul", "Einsum", "FusedGemm", "FusedMatMul", "FusedMatMulActivation", "GemmFastGelu", "Gemm",
    "MatMul", "MatMulBnb4", "MatMulFpQ4", "MatMulInteger", "MatMulInteger16", "MatMulIntegerToFloat", "MatMulNBits",
    "QGemm", "QLinearMatMul", "QMoE", "MoE", "SparseToDenseMatMul", "TransposeMatMul",
}  # fmt: skip
RECURRENT = {"DynamicQuantizeLSTM", "GRU", "LSTM", "RNN", "AttnLSTM"}
ATTENTION = {
    "Attention", "DecoderAttention", "DecoderMaskedMultiHeadAttention", "DecoderMaskedSelfAttention",
    "GroupQueryAttention", "LinearAttention", "LongformerAttention", "MultiHeadAttention", "PackedAttention",
    "PackedMultiHeadAttention", "PagedAttention", "QAttention", "QOrderedAttention", "SparseAttention",
}  # fmt: skip
MATRIX = CONVOLUTIONS | PRODUCTS | RECURRENT | ATTENTION
SUMS = {"Add", "Sum", "QLinearAdd"}
# Operators that combine a sum and its normalization.
SKIPS = {"SkipLayerNormalization", "SkipSimplifiedLayerNormalization", "SkipGroupNorm"}

# Operators that change the position or storage of values, but not the values.
LAYOUT = {
    "Cast", "CastLike", "DequantizeLinear", "Dropout", "DynamicQuantizeLinear", "Flatten", "Identity", "QuantizeLinear",
    "Reshape", "Squeeze", "Transpose", "Unsqueeze",
}  # fmt: skip
SOFTMAX = {"LogSoftmax", "Softmax"}
# Operators whose outputs are probabilities, which saturate.
SATURATING = {"HardSigmoid", "QLinearSigmoid", "QLinearSoftmax", "Sigmoid", "Softmax"}
# Operators whose outputs are integers: inside a block they are part of rounding in elementary operators.
INTEGRAL = {"Floor", "Round"}
# Normalizations, activations, and the operators that they are composed of.
POINTWISE = {
    "Abs", "Add", "BatchNormalization", "BiasAdd", "BiasGelu", "BiasSplitGelu", "Celu", "Clip", "Div", "Elu", "Erf",
    "Exp", "FastGelu", "Gelu", "GroupNorm", "GroupNormalization", "HardSigmoid", "HardSwish", "InstanceNormalization",
    "LRN", "LayerNormalization", "LeakyRelu", "Log", "LpNormalization", "Max", "MeanVarianceNormalization", "Min",
    "Mish", "Mul", "Neg", "PRelu", "Pow", "QLinearAdd", "QLinearLeakyRelu", "QLinearMul", "QLinearSigmoid",
    "QuickGelu", "RMSNormalization", "Reciprocal", "Relu", "Selu", "Shrink", "Sigmoid", "SimplifiedLayerNormalization",
    "Sin", "Softplus", "Softsign", "Sqrt", "Sub", "Sum", "Swish", "Tanh", "ThresholdedRelu", "Where", *SOFTMAX,
}  # fmt: skip
# Reductions end no block: their output is a summary of it.
REDUCTIONS = {"GlobalAveragePool", "Mean", "ReduceL2", "ReduceMean", "ReduceSum", "ReduceSumSquare"}
POINTWISE |= REDUCTIONS | INTEGRAL
