"""The words that pages use, each with what it means, for those who meet them first."""

ACCURACY = {
    "cosine": "Between the FP32 and the INT8 vector of one sample: 1 is the same direction, 0 is unrelated.",
    "1st percentile": "One sample in a hundred has a lower cosine than this.",
    "neighbour kept": "Share of samples whose INT8 vector finds the same nearest other sample among FP32 vectors as "
    "its FP32 vector does: what an index that exists already goes on finding.",
    "SQNR": "Signal to quantisation noise ratio: how far values stand above the error of INT8. At 20 dB the error is a "
    "tenth of them, at 40 dB a hundredth.",
}
PLAN = {
    "op": "A node of the model with weights: MatMul, Gemm or Conv.",
    "recipe": "What is done to an op's input before it is rounded, and undone in its weights. Smooth moves the size of "
    "large channels into the weights (the number says how much of it), shift takes the middle of each channel away, "
    "split divides the largest channels in two, reach leaves room on the grid for larger values.",
    "extra columns": "What split adds to the op.",
    "amax": "The value that the last step of INT8, 127, stands for; larger ones are cut off.",
    "typical": "Root mean square of the median row of a tensor: the size of an ordinary value in it.",
}
ENGINE = {
    "planned in INT8": "The compiler's own list of kernels shows that these ops multiply INT8 by INT8.",
    "conditioning": "Whether the compiler fused what the recipes do into kernels that compute something else too. That "
    "saves kernels, not all of the time: what it costs is measured on the GPU. A norm that takes a second kernel and a "
    "node that is not fused are named, and cost more.",
}
SPEED = {"p95, p99": "Of a hundred batches 95, or 99, took at most this long."}
