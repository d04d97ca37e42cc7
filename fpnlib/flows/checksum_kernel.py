"""A number that changes with any bit of some memory, and with its place, in numba."""

from llvmlite import ir
from numba import int64, types
from numba.extending import intrinsic

from fpnlib.flows.vectors import inlined, integer, jit


def _word(bits):
    @intrinsic
    def load(typing, address):
        def generate(context, builder, signature, args):
            value = builder.load(builder.inttoptr(args[0], ir.IntType(bits).as_pointer()))
            value.align = 4
            return builder.zext(value, ir.IntType(64)) if bits < 64 else value

        return types.int64(types.int64), generate

    return load


_word64, _word32 = _word(64), _word(32)


@inlined
def _mixed(word, place):
    """A round of splitmix64 (Steele et al. 2014), so that no changes cancel."""
    x = word + place * -7046029254386353131
    x = (x ^ (x >> 30)) * -4658895280553007687
    return x ^ (x >> 27)


@jit(int64(int64, int64))
def checksum(places, count):
    """Of ``count`` pieces of memory; at ``places`` lie the address of each and its length, in words of 32 bits."""
    total = 0
    for place in range(places, places + 16 * count, 16):
        address, words = integer(place), integer(place + 8)
        mixed = 0
        for i in range(words // 2):
            mixed += _mixed(_word64(address + 8 * i), i)
        if words % 2:
            mixed += _mixed(_word32(address + 4 * (words - 1)), words)
        total = total * 31 + mixed
    return total
