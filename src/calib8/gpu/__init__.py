"""What NVIDIA's management library (NVML) tells of the GPUs, and what they do while work runs. Never touches CUDA."""
