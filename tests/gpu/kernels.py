"""Two CUDA kernels on float32, as PTX that any driver compiles, so that neither nvcc nor another library is needed."""

import ctypes
from functools import cache

from cuda.bindings import driver

PTX = r"""
.version 7.0
.target sm_70
.address_size 64

.visible .entry affine(.param .u64 px, .param .u64 py, .param .u64 pn)  // y[i] = 2 x[i] + 1
{
    .reg .pred %p1;
    .reg .b32 %r<4>;
    .reg .b64 %d<6>;
    .reg .f32 %f<3>;
    mov.u32 %r1, %ctaid.x;
    mov.u32 %r2, %ntid.x;
    mov.u32 %r3, %tid.x;
    mul.wide.u32 %d1, %r1, %r2;
    cvt.u64.u32 %d2, %r3;
    add.u64 %d1, %d1, %d2;
    ld.param.u64 %d3, [pn];
    setp.ge.u64 %p1, %d1, %d3;
    @%p1 ret;
    shl.b64 %d1, %d1, 2;
    ld.param.u64 %d4, [px];
    add.u64 %d4, %d4, %d1;
    ld.global.f32 %f1, [%d4];
    fma.rn.f32 %f2, %f1, 0f40000000, 0f3F800000;
    ld.param.u64 %d5, [py];
    add.u64 %d5, %d5, %d1;
    st.global.f32 [%d5], %f2;
    ret;
}

.visible .entry matmul(.param .u64 px, .param .u64 pw, .param .u64 py, .param .u64 prows, .param .u64 pinner,
    .param .u64 pcolumns)  // y[r, c] = sum over k of x[r, k] w[k, c]: one thread each
{
    .reg .pred %p1;
    .reg .b32 %r<4>;
    .reg .b64 %d<16>;
    .reg .f32 %f<4>;
    mov.u32 %r1, %ctaid.x;
    mov.u32 %r2, %ntid.x;
    mov.u32 %r3, %tid.x;
    mul.wide.u32 %d1, %r1, %r2;
    cvt.u64.u32 %d2, %r3;
    add.u64 %d1, %d1, %d2;
    ld.param.u64 %d3, [prows];
    ld.param.u64 %d4, [pcolumns];
    mul.lo.u64 %d5, %d3, %d4;
    setp.ge.u64 %p1, %d1, %d5;
    @%p1 ret;
    ld.param.u64 %d6, [pinner];
    div.u64 %d7, %d1, %d4;
    rem.u64 %d8, %d1, %d4;
    mul.lo.u64 %d9, %d7, %d6;
    shl.b64 %d9, %d9, 2;
    ld.param.u64 %d10, [px];
    add.u64 %d10, %d10, %d9;
    shl.b64 %d8, %d8, 2;
    ld.param.u64 %d11, [pw];
    add.u64 %d11, %d11, %d8;
    shl.b64 %d12, %d4, 2;
    mov.f32 %f1, 0f00000000;
    mov.u64 %d13, 0;
loop:
    setp.ge.u64 %p1, %d13, %d6;
    @%p1 bra done;
    ld.global.f32 %f2, [%d10];
    ld.global.f32 %f3, [%d11];
    fma.rn.f32 %f1, %f2, %f3, %f1;
    add.u64 %d10, %d10, 4;
    add.u64 %d11, %d11, %d12;
    add.u64 %d13, %d13, 1;
    bra loop;
done:
    shl.b64 %d1, %d1, 2;
    ld.param.u64 %d14, [py];
    add.u64 %d14, %d14, %d1;
    st.global.f32 [%d14], %f1;
    ret;
}
"""
THREADS = 256


def launch(name: str, stream: int, threads: int, *arguments: int) -> bool:
    """Enqueue a kernel of at least so many threads; whether CUDA took it."""
    types = (ctypes.c_uint64,) * len(arguments)
    blocks = max(1, -(-threads // THREADS))
    (status,) = driver.cuLaunchKernel(_functions()[name], blocks, 1, 1, THREADS, 1, 1, 0, stream, (arguments, types), 0)
    return bool(status == driver.CUresult.CUDA_SUCCESS)


@cache
def _functions() -> dict[str, object]:
    """Compiled by the driver for the GPU whose context is current."""
    module = _checked(driver.cuModuleLoadData(PTX.encode()))
    return {name: _checked(driver.cuModuleGetFunction(module, name.encode())) for name in ("affine", "matmul")}


def _checked(answer: tuple[object, ...]) -> object:
    status, value = answer
    assert status == driver.CUresult.CUDA_SUCCESS, status
    return value
