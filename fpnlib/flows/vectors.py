"""Vectors of samples in registers, for numba: the same number of 32 neighbouring samples, in as few instructions as fit.

A ``Vec`` is LLVM's own vector of ``LANES`` float32; ``load`` and ``store`` move it from and to memory, ``+ - * /`` work
lane by lane, and ``fma(w, x, acc)`` is acc + w·x for the number at address w. All else is made of these. Where many sums
must stay in registers at once, ``load_few`` and ``splat_few`` make vectors of ``FEW``, which take one each. Memory is addressed
by plain integers (``tensor.data_ptr()`` plus bytes): numba's array arguments would cost more than the sums.
"""

import hashlib
import operator
from collections.abc import Callable
from pathlib import Path

from llvmlite import binding, ir
from numba import __version__, config, njit, types
from numba.extending import intrinsic, models, overload, register_model

HAS = binding.get_host_cpu_features().get
LANES = 32
FEW = 16 if HAS("avx512f") else 8 if HAS("avx") else 4  # lanes in one register
ROWS = 4 if HAS("avx512f") else 2  # of sums, all in registers: a vector takes 2, or 4
FLOAT = ir.FloatType()
VECTOR = ir.VectorType(FLOAT, LANES)
BITS = ir.VectorType(ir.IntType(32), LANES)

HERE = Path(__file__).parent
SOURCES = sorted(
    path for name in ("vectors.py", "settings.py", "*kernel*.py") for path in HERE.glob(name)
)
MACHINE = f"{__version__} {binding.get_host_cpu_name()} {binding.get_host_cpu_features().flatten()}"
VERSION = hashlib.sha256(
    b"".join(path.read_bytes() for path in SOURCES) + MACHINE.encode()
).hexdigest()[:12]
KEPT = Path(config.CACHE_DIR or HERE / "__pycache__") / f"kernels-{VERSION}"
if config.DISABLE_JIT:
    raise ImportError("NUMBA_DISABLE_JIT is set")


def jit(signature: types.Type | list[types.Type]) -> Callable:
    """njit as the kernels use it: no reassociation, no lock, compiled once for the machine and for these sources.

    ``SOURCES`` are all that a kernel may inline: of itself numba would notice a change in a kernel's own file only. And
    in a folder that several kinds of machine share, each has a part of its own: numba's index of a kernel is for all of
    them, and two that write it at once could leave one's code under the other's name.
    """
    compile = njit(signature, fastmath={"contract"}, nogil=True, error_model="numpy", cache=True)

    def decorate(function: Callable) -> Callable:
        before, config.CACHE_DIR = config.CACHE_DIR, str(KEPT)
        try:
            return compile(function)
        finally:
            config.CACHE_DIR = before

    return decorate


inlined = njit(fastmath={"contract"}, nogil=True, error_model="numpy", forceinline=True)


class VecType(types.Type):
    def __init__(self, lanes: int) -> None:
        super().__init__(name=f"Vec{lanes}")
        self.llvm = ir.VectorType(FLOAT, lanes)


vec, few = VecType(LANES), VecType(FEW)


@register_model(VecType)
class VecModel(models.PrimitiveModel):
    def __init__(self, dmm, fe_type):
        super().__init__(dmm, fe_type, fe_type.llvm)


def _splat(builder, number, kind=VECTOR):
    first = builder.insert_element(
        ir.Constant(kind, ir.Undefined), number, ir.Constant(ir.IntType(32), 0)
    )
    lanes = ir.Constant(ir.VectorType(ir.IntType(32), kind.count), [0] * kind.count)
    return builder.shuffle_vector(first, ir.Constant(kind, ir.Undefined), lanes)


def _constant(value, kind=VECTOR):
    return ir.Constant(kind, [value] * LANES)


def _load(kind: VecType) -> Callable:
    @intrinsic
    def load(typing, address):
        """The floats from this address on, one in each lane."""

        def generate(context, builder, signature, args):
            value = builder.load(builder.inttoptr(args[0], kind.llvm.as_pointer()))
            value.align = 4
            return value

        return kind(types.int64), generate

    return load


load, load_few = _load(vec), _load(few)


@intrinsic
def store(typing, address, value):
    """The LANES floats from this address on become those of value."""

    def generate(context, builder, signature, args):
        builder.store(args[1], builder.inttoptr(args[0], VECTOR.as_pointer())).align = 4
        return context.get_dummy_value()

    return types.void(types.int64, vec), generate


@intrinsic
def number(typing, address):
    """The float at this address, in every lane."""

    def generate(context, builder, signature, args):
        return _splat(builder, builder.load(builder.inttoptr(args[0], FLOAT.as_pointer())))

    return vec(types.int64), generate


@intrinsic
def integer(typing, address):
    """The int64 at this address."""

    def generate(context, builder, signature, args):
        return builder.load(builder.inttoptr(args[0], ir.IntType(64).as_pointer()))

    return types.int64(types.int64), generate


def _splat_as(kind: VecType) -> Callable:
    @intrinsic
    def splat(typing, number):
        """The number in every lane."""

        def generate(context, builder, signature, args):
            return _splat(builder, args[0], kind.llvm)

        return kind(types.float32), generate

    return splat


splat, splat_few = _splat_as(vec), _splat_as(few)


@intrinsic
def fma(typing, address, value, total):
    """total + (the float at this address) · value."""

    def generate(context, builder, signature, args):
        weight = _splat(builder, builder.load(builder.inttoptr(args[0], FLOAT.as_pointer())))
        return builder.fadd(
            builder.fmul(weight, args[1], flags=("contract",)), args[2], flags=("contract",)
        )

    return vec(types.int64, vec, vec), generate


@intrinsic
def store_total(typing, address, value):
    """The float at this address becomes the sum over the lanes."""

    def generate(context, builder, signature, args):
        total, lanes = args[1], value.llvm.count
        while lanes > 1:
            lanes //= 2
            halves = (
                builder.shuffle_vector(
                    total, total, ir.Constant(ir.VectorType(ir.IntType(32), lanes), [*range(a, b)])
                )
                for a, b in ((0, lanes), (lanes, 2 * lanes))
            )
            total = builder.fadd(*halves)
        total = builder.extract_element(total, ir.Constant(ir.IntType(32), 0))
        builder.store(total, builder.inttoptr(args[0], FLOAT.as_pointer()))
        return context.get_dummy_value()

    return types.void(types.int64, value), generate


def _lanewise(instruction):
    @intrinsic
    def of_two(typing, a, b):
        def generate(context, builder, signature, args):
            return getattr(builder, instruction)(*args, flags=("contract",))

        return a(a, a), generate

    return of_two


def _operator(symbol, instruction):
    lanewise = _lanewise(instruction)

    @overload(symbol)
    def either(a, b):
        if isinstance(a, VecType) and isinstance(b, VecType):
            return lambda a, b: lanewise(a, b)
        if isinstance(a, VecType) and isinstance(b, types.Number):
            return lambda a, b: lanewise(a, splat(types.float32(b)))
        if isinstance(a, types.Number) and isinstance(b, VecType):
            return lambda a, b: lanewise(splat(types.float32(a)), b)


for _symbol, _instruction in (
    ("add", "fadd"),
    ("sub", "fsub"),
    ("mul", "fmul"),
    ("truediv", "fdiv"),
):
    _operator(getattr(operator, _symbol), _instruction)


@intrinsic
def where_positive(typing, condition, yes, no):
    """``yes`` where condition > 0, ``no`` elsewhere; NaN counts as positive, so that it goes on as in torch's relu."""

    def generate(context, builder, signature, args):
        return builder.select(
            builder.fcmp_unordered(">", args[0], _constant(0.0)), args[1], args[2]
        )

    return vec(vec, vec, vec), generate


@intrinsic
def _times_power_of_two(typing, value, power):
    """value · 2^p for p = power - 1.5·2²³: that sum's lowest bits are the whole number p."""

    def generate(context, builder, signature, args):
        bits = builder.add(builder.bitcast(args[1], BITS), _constant(127, BITS))
        return builder.fmul(
            args[0], builder.bitcast(builder.shl(bits, _constant(23, BITS)), VECTOR)
        )

    return vec(vec, vec), generate


@intrinsic
def exponent(typing, value):
    """e of value = m · 2^e with m in [1, 2), for normal positive numbers."""

    def generate(context, builder, signature, args):
        bits = builder.lshr(builder.bitcast(args[0], BITS), _constant(23, BITS))
        return builder.sitofp(builder.sub(bits, _constant(127, BITS)), VECTOR)

    return vec(vec), generate


@intrinsic
def mantissa(typing, value):
    """m of value = m · 2^e with m in [1, 2), for normal positive numbers."""

    def generate(context, builder, signature, args):
        bits = builder.and_(builder.bitcast(args[0], BITS), _constant(0x007FFFFF, BITS))
        return builder.bitcast(builder.or_(bits, _constant(0x3F800000, BITS)), VECTOR)

    return vec(vec), generate


@inlined
def relu(x):
    return where_positive(x, x, splat(0.0))


@inlined
def exp_of_negative(x):
    """exp(x) for x <= 0: 2^p · exp(r) with |r| <= ln 2 / 2, whose series stops at r⁷ / 7! < 1e-7."""
    x = where_positive(x + 87.0, x, splat(-87.0))
    shifted = x * 1.44269504 + 12582912.0
    p = shifted - 12582912.0
    r = (x - p * 0.693359375) + p * 2.12194440e-4
    series = r * (1 / 5040) + 1 / 720
    series = series * r + 1 / 120
    series = series * r + 1 / 24
    series = series * r + 1 / 6
    series = series * r + 0.5
    series = series * r + 1.0
    series = series * r + 1.0
    return _times_power_of_two(series, shifted)


@inlined
def log1p_of_fraction(t):
    """log(1 + t) for 0 <= t <= 1, as 2 artanh(t / (2 + t))."""
    w = t / (t + 2.0)
    square = w * w
    series = square * (1 / 15) + 1 / 13
    series = series * square + 1 / 11
    series = series * square + 1 / 9
    series = series * square + 1 / 7
    series = series * square + 1 / 5
    series = series * square + 1 / 3
    series = series * square + 1.0
    return 2.0 * w * series


@inlined
def log_of_mantissa(m):
    """log(m) for 1 <= m < 2: of m / √2 it is 2 artanh of at most 0.18."""
    half = m * 0.70710678
    w = (half - 1.0) / (half + 1.0)
    square = w * w
    series = square * (1 / 9) + 1 / 7
    series = series * square + 1 / 5
    series = series * square + 1 / 3
    series = series * square + 1.0
    return 2.0 * w * series + 0.34657359


@inlined
def multiply(product, exponents, scale):
    """The running product of the scales as mantissa and exponent: one logarithm serves all; infinity and NaN stay."""
    product = product * scale
    return mantissa(product), exponents + exponent(product) + where_positive(
        scale - 3.4028235e38, scale, splat(0.0)
    )


@inlined
def softplus(x):
    """(log(1 + eˣ), its derivative)."""
    magnitude = where_positive(x, x, splat(0.0) - x)
    e = exp_of_negative(splat(0.0) - magnitude)
    slope = where_positive(x, splat(1.0), e) / (e + 1.0)
    return relu(x) + log1p_of_fraction(e), slope
