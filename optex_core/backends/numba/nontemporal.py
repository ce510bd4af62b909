"""Stores that go past the caches: for results so large that they would push out everything else
before anybody reads them.

A line of a new array is read from memory before it is written, as the processor does not know that
all of it will be. So a step of Adam, which reads four vectors and writes three, moves ten; with
streaming stores seven, as many as one that overwrites what it was given. Time of steps of Adam, one
right after the other, against the loop that writes as usual (medians over pairs of bursts, two
cores with 32 MB of last cache):

    bytes of the seven vectors      5.6e6    11e6    14e6    28e6    56e6    140e6    280e6
    streaming / as usual, float32    1.10             1.19    1.00    0.88     0.80
    streaming / as usual, float64            1.75             1.09    0.89     0.80     0.74

So they begin where all together is as large as the last cache. With other work between the steps
they gain earlier (0.89 to 0.93 from 14e6 bytes on), by less than they lose at once.

What is computed goes through a piece of the stack that stays in the first cache. Pieces of 512
bytes are best: at d = 5e6, float32, a step takes 1.3 times as long with 256 bytes, 1.06 with 1,024,
1.3 with 4,096, where reading and writing no longer overlap. Reading ahead by prefetch instructions
gained nothing, nor did vectors that begin at other places of a page, nor more pieces for each
thread. Where everything fits into the second cache (d = 1e4) this loop takes 1.4 times as long even
with usual stores, so that there are two. Copies of told gradients are not streamed: from 1 to 12 MB
the C library's copy by one thread takes as long as two threads that stream.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

#: Bytes of a cache line: what streaming stores fill as a whole, and what they must be aligned to.
LINE = 64
#: Bytes of one result that are computed before they are sent off.
PIECE = 512
#: Never from fewer bytes on: with eight vectors or fewer each of a rule is then large enough to
#: begin with a line.
LEAST = 8 << 20


def last_cache(folder: Path = Path("/sys/devices/system/cpu/cpu0/cache")) -> int:
    """Bytes of the largest cache of a processor, as Linux lists it; 32 MiB where nobody tells."""
    sizes = []
    for file in folder.glob("index*/size"):
        try:
            number, unit = re.fullmatch(
                r"(\d+)([KM]?)\s*", file.read_text(encoding="ascii")
            ).groups()  # type: ignore[union-attr]
        except (OSError, ValueError, AttributeError):
            # a cache whose size the firmware keeps to itself
            continue
        sizes.append(int(number) << {"": 0, "K": 10, "M": 20}[unit])
    return max(sizes, default=32 << 20)


#: Bytes read and written together from which on results are streamed. Smaller ones may still be in
#: the last cache when they are read again.
FROM = max(last_cache(), LEAST)


def _scratch(_context: Any, like: Any) -> Any:
    """`PIECE` bytes of the stack of the calling function, as a pointer to entries of the array
    `like`.
    """

    def code(context: Any, builder: Any, signature: Any, _arguments: Any) -> Any:
        memory = cgutils.alloca_once(builder, ir.ArrayType(ir.IntType(8), PIECE))
        memory.align = LINE
        return builder.bitcast(memory, context.get_value_type(signature.return_type))

    return types.CPointer(like.dtype)(like), code


def _stream(_context: Any, source: Any, out: Any, begin: Any, size: Any) -> Any:
    """``out[begin : begin + size] = source[:size]`` past the caches; the source and that part of
    `out` begin at a cache line.
    """

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        source, out, begin, size = arguments
        kind = context.get_value_type(signature.args[1].dtype)
        target = builder.gep(
            context.make_array(signature.args[1])(context, builder, out).data, [begin]
        )
        write(builder, kind, LINE // context.get_abi_sizeof(kind), source, target, size)
        return context.get_dummy_value()

    return types.void(source, out, begin, size), code


def write(
    builder: ir.IRBuilder,
    kind: ir.Type,
    width: int,
    source: ir.Value,
    target: ir.Value,
    size: ir.Value,
) -> None:
    """Code that copies `size` entries of a kind, `width` of which fill a line, to a target that
    begins with one.
    """

    def streamed(k: ir.Value) -> None:
        entries = builder.load(builder.bitcast(builder.gep(source, [k]), line), align=LINE)
        # Compiled for what the processor has: one, two or four stores, and plain ones where it has
        # no others.
        builder.store(
            entries, builder.bitcast(builder.gep(target, [k]), line), align=LINE
        ).set_metadata("nontemporal", mark)

    line, mark = (
        ir.VectorType(kind, width).as_pointer(),
        builder.module.add_metadata([ir.Constant(ir.IntType(32), 1)]),
    )
    lines = builder.sdiv(size, size.type(width))
    with cgutils.for_range(builder, lines) as loop:
        streamed(builder.mul(loop.index, size.type(width)))
    done = builder.mul(lines, size.type(width))
    # what does not fill a line: at the end of a vector
    with cgutils.for_range(builder, builder.sub(size, done)) as loop:
        k = builder.add(loop.index, done)
        builder.store(builder.load(builder.gep(source, [k])), builder.gep(target, [k]))


def _fence(_context: Any) -> Any:
    """What was streamed can be seen by whoever sees anything this thread writes later: on x86 such
    stores keep no order by themselves.
    """

    def code(context: Any, builder: Any, _signature: Any, _arguments: Any) -> Any:
        if builder.module.triple.startswith(("x86_64", "amd64", "i386", "i686")):
            name = "llvm.x86.sse.sfence"
            builder.call(
                cgutils.get_or_insert_function(
                    builder.module, ir.FunctionType(ir.VoidType(), []), name
                ),
                [],
            )
        return context.get_dummy_value()

    return types.void(), code


scratch: Any = intrinsic(_scratch)
stream: Any = intrinsic(_stream)
fence: Any = intrinsic(_fence)
