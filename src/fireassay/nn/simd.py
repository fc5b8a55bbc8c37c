"""Vectors of registers, pointers and threads for the fused CPU kernels.

A `Vector` holds a fixed number of floats; LLVM spreads it over as many registers as the machine needs. A kernel is a C
function of one pointer, to a table of 64-bit words (addresses, sizes, a counter). Threads draw chunks of work from the
counter, so that no kernel needs to know how many of them run, and each result is written by one thread in one order.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from llvmlite import binding, ir
from numba import cfunc, extending, types
from numba.core import cgutils
from numba.extending import models, register_model

from fireassay.kernel_cache import cached

intrinsic: Any = extending.intrinsic  # its results are called without the context that they are declared with
_LLVM = {types.float32: ir.FloatType(), types.float64: ir.DoubleType(), types.int64: ir.IntType(64)}
_FAST = ("contract", "reassoc", "nsz")  # no assumption about NaN and infinity: they must pass through


class Vector(types.Type):
    """The type of `lanes` floats of one width."""

    def __init__(self, scalar: Any, lanes: int) -> None:
        self.scalar, self.lanes = scalar, lanes
        super().__init__(name=f"Vector({scalar}, {lanes})")


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Vector) -> None:
        super().__init__(manager, kind, ir.VectorType(_LLVM[kind.scalar], kind.lanes))


def _splat(builder: Any, value: Any, kind: Vector) -> Any:
    vector = ir.VectorType(_LLVM[kind.scalar], kind.lanes)
    first = builder.insert_element(ir.Constant(vector, ir.Undefined), value, ir.Constant(ir.IntType(32), 0))
    mask = ir.Constant(ir.VectorType(ir.IntType(32), kind.lanes), [0] * kind.lanes)
    return builder.shuffle_vector(first, ir.Constant(vector, ir.Undefined), mask)


@intrinsic(prefer_literal=True)
def zeros(context: Any, dtype: Any, lanes: Any) -> Any:
    """A vector of `lanes` zeros of `dtype`, both known when compiling; it also tells other functions its type."""
    kind = Vector(dtype.dtype, lanes.literal_value)

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return ir.Constant(ir.VectorType(_LLVM[kind.scalar], kind.lanes), None)

    return kind(dtype, lanes), code


@intrinsic
def words_of(context: Any, data: Any) -> Any:
    """The kernel's argument as a pointer to its 64-bit words."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], ir.IntType(64).as_pointer())

    return types.CPointer(types.int64)(data), code


@intrinsic
def lanes_of(context: Any, vector: Any) -> Any:
    """The number of lanes of a vector, a constant."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return ir.Constant(ir.IntType(64), vector.lanes)

    return types.int64(vector), code


@intrinsic
def pointer(context: Any, address: Any, like: Any) -> Any:
    """`address` (int64) as a pointer to the floats of the vector `like`, or to int64 when `like` is an integer."""
    scalar = like.scalar if isinstance(like, Vector) else types.int64

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.inttoptr(args[0], _LLVM[scalar].as_pointer())

    return types.CPointer(scalar)(address, like), code


@intrinsic
def at(context: Any, base: Any, index: Any) -> Any:
    """base[index], without a check and without wrapping negative indices."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.load(builder.gep(args[0], [args[1]]))

    return base.dtype(base, types.int64), code


@intrinsic
def put(context: Any, base: Any, index: Any, value: Any) -> Any:
    """base[index] = value for a scalar."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.store(args[2], builder.gep(args[0], [args[1]]))
        return context.get_dummy_value()

    return types.void(base, types.int64, base.dtype), code


def _vector_pointer(builder: Any, base: Any, index: Any, kind: Vector) -> Any:
    vector = ir.VectorType(_LLVM[kind.scalar], kind.lanes)
    return builder.bitcast(builder.gep(base, [index]), vector.as_pointer())


@intrinsic
def load(context: Any, base: Any, index: Any, like: Any) -> Any:
    """base[index : index + lanes] as a vector of the type of `like`."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        where = _vector_pointer(builder, args[0], args[1], like)
        return builder.load(where, align=like.scalar.bitwidth // 8)

    return like(base, types.int64, like), code


@intrinsic
def store(context: Any, base: Any, index: Any, value: Any) -> Any:
    """base[index : index + lanes] = value."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        where = _vector_pointer(builder, args[0], args[1], value)
        builder.store(args[2], where, align=value.scalar.bitwidth // 8)
        return context.get_dummy_value()

    return types.void(base, types.int64, value), code


@intrinsic
def multiply(context: Any, a: Any, b: Any) -> Any:
    """a * b, elementwise; `a` is a vector or a scalar."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        left = args[0] if isinstance(a, Vector) else _splat(builder, args[0], b)
        return builder.fmul(left, args[1], flags=_FAST)

    return b(a if isinstance(a, Vector) else b.scalar, b), code


@intrinsic
def multiply_add(context: Any, a: Any, b: Any, c: Any) -> Any:
    """a * b + c, elementwise, fused where the machine can; `a` is a vector or a scalar."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        left = args[0] if isinstance(a, Vector) else _splat(builder, args[0], b)
        return builder.fadd(builder.fmul(left, args[1], flags=_FAST), args[2], flags=_FAST)

    return b(a if isinstance(a, Vector) else b.scalar, b, b), code


@intrinsic
def total(context: Any, vector: Any) -> Any:
    """The sum over the lanes."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        scalar, whole = _LLVM[vector.scalar], ir.VectorType(_LLVM[vector.scalar], vector.lanes)
        name = f"llvm.vector.reduce.fadd.v{vector.lanes}f{vector.scalar.bitwidth}"
        function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(scalar, [scalar, whole]), name)
        return builder.call(function, [ir.Constant(scalar, -0.0), args[0]], fastmath=_FAST)

    return vector.scalar(vector), code


@intrinsic
def draw(context: Any, words: Any, index: Any, amount: Any) -> Any:
    """Adds `amount` to words[index] and returns what it held before, atomically."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.atomic_rmw("add", builder.gep(args[0], [args[1]]), args[2], "monotonic")

    return types.int64(words, types.int64, types.int64), code


@intrinsic
def prefetch(context: Any, base: Any, index: Any) -> Any:
    """Asks for the cache line of base[index], to be read soon."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        number, where = ir.IntType(32), builder.bitcast(builder.gep(args[0], [args[1]]), ir.IntType(8).as_pointer())
        kind = ir.FunctionType(ir.VoidType(), [where.type, number, number, number])
        function = builder.module.declare_intrinsic("llvm.prefetch", [where.type], kind)
        builder.call(function, [where, *(ir.Constant(number, n) for n in (0, 2, 1))])  # read, second-level cache, data
        return context.get_dummy_value()

    return types.void(base, types.int64), code


@cache
def register_bytes() -> int:
    """The width of this machine's vector registers."""
    features = binding.get_host_cpu_features()
    return 64 if features.get("avx512f") else 32 if features.get("avx2") else 16


def compiled(function: Callable[..., None]) -> Any:
    """A kernel as a C function, compiled once per machine; cached beside the package or in the user's cache folder.

    What it calls must be `@njit(forceinline=True)`: a call left in the code goes to a separately optimised function in
    the process that compiles and to the cached one in others, and the two may round differently.
    The C function's `.address` is what `launch` takes.
    """
    return cached(partial(cfunc, types.void(types.voidptr)))(function)


@cache
def _torch_threads() -> Any:
    """GOMP_parallel of the OpenMP runtime that torch has loaded, so that both share one pool of threads; else None."""
    for library in Path(torch.__file__).parent.glob("lib/libtorch_cpu.so"):
        try:
            entry = ctypes.CDLL(str(library)).GOMP_parallel
        except (AttributeError, OSError):
            continue
        entry.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
        entry.restype = None
        return entry
    return None


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(thread_name_prefix="fireassay")


def launch(address: int, words: list[int], parallel: bool = True) -> None:
    """Runs the kernel at `address` on a table of `words` on torch.get_num_threads() threads, and waits for it."""
    table = (ctypes.c_int64 * len(words))(*words)
    threads = torch.get_num_threads() if parallel else 1
    if threads > 1 and (entry := _torch_threads()) is not None:
        entry(address, ctypes.addressof(table), threads, 0)
        return
    kernel = _callable(address)
    others = [_pool().submit(kernel, ctypes.addressof(table)) for _ in range(threads - 1)]
    kernel(ctypes.addressof(table))
    for other in others:
        other.result()


@cache
def _callable(address: int) -> Any:
    return ctypes.CFUNCTYPE(None, ctypes.c_void_p)(address)


def scalar_type(dtype: torch.dtype) -> Any:
    """The numpy scalar of a torch dtype, as the kernels want it."""
    return {torch.float32: np.float32, torch.float64: np.float64}[dtype]
