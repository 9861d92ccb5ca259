"""The GPUs: what NVIDIA's management library (NVML) tells of them, and one of them through cuda-python."""
