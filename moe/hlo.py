"""What a compiled program sends between devices and multiplies: read from its HLO text.

XLA prints every collective once, inside loops too, so the number of a loop's turns is read from its
condition. Which mesh axes a collective crosses follows from its replica groups: device i of a
program is the i-th of `mesh.devices.flat`.
"""

import math
import re
from collections import defaultdict
from typing import Any, NamedTuple

import jax
import numpy as np

from moe.errors import UserError

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
_COLLECTIVE = re.compile(rf"= (.*?) ({'|'.join(KINDS)})(-start)?\(")
_OTHER = re.compile(r" (ragged-all-to-all|collective-broadcast|send|recv)(?:-start)?\(")
_IDS = r"(?:, device_ids=\(\[([\d,]+)\](?:T\(([\d,]+)\))?\))?"
_OF_SIZE = {
    0: ("token",),
    1: ("pred", "s8", "u8"),
    2: ("bf16", "f16", "s16", "u16"),
    4: ("f32", "s32", "u32"),
    8: ("f64", "s64", "u64"),
}
_BYTES = {kind: size for size, kinds in _OF_SIZE.items() for kind in kinds}  # of one number


class Traffic(NamedTuple):
    """What collectives of one kind over the same axes do in one call of the program."""

    times: int  # how often one is run
    bytes: float  # that leave each device, by the ring algorithms: see `wire_bytes`


_Found = defaultdict[tuple[str, str], Traffic]  # by kind and axes


def bytes_accessed(program: jax.stages.Compiled) -> float:
    """Bytes that its operations read and write, as XLA counts them; a loop's body counts once."""
    cost = program.cost_analysis()
    assert cost is not None  # no back end that we know is without it
    return cost["bytes accessed"]


def temporary_bytes(program: jax.stages.Compiled) -> int:
    """Memory of one call beside its arguments and results, on each device."""
    return memory(program).temp_size_in_bytes


def memory(program: jax.stages.Compiled) -> Any:
    """What its compiler planned: bytes of arguments, results, temporary arrays and code."""
    used = program.memory_analysis()
    assert used is not None  # CPUs, GPUs and TPUs all tell it
    return used


def held_bytes(program: jax.stages.Compiled) -> int:
    """Memory of one call on each device: arguments, temporary arrays, code, and new results.

    Results that take the memory of donated arguments count once.
    """
    used = memory(program)
    results = used.output_size_in_bytes - used.alias_size_in_bytes
    beside = used.temp_size_in_bytes + used.generated_code_size_in_bytes
    return used.argument_size_in_bytes + beside + results


def _nothing_yet() -> _Found:
    return defaultdict(lambda: Traffic(0, 0.0))


def text_of(program: jax.stages.Compiled) -> str:
    """The HLO text of a compiled program."""
    text = program.as_text()
    assert text is not None  # CPUs, GPUs and TPUs all have one
    return text


def traffic(text: str, mesh_shape: dict[str, int]) -> dict[tuple[str, str], Traffic]:
    """(kind, axes) -> Traffic of a compiled program; axes such as "expert" or "data+expert".

    Args:
      text: of `text_of`.
      mesh_shape: axis -> size, in the order of the mesh.

    Raises:
      UserError: for a loop whose turns the text does not tell, a kind of collective without a
        rule here, or an unknown notation.
    """
    computations = _computations(text)
    found = _nothing_yet()
    _walk(computations, "ENTRY", 1, mesh_shape, found, set())
    return dict(found)


def wire_bytes(kind: str, size: float, devices: int) -> float:
    """Bytes that leave each of n devices for a collective whose result has `size` bytes there.

    Rings: all-gather and all-to-all (n-1)/n of the result, all-reduce twice that,
    reduce-scatter n-1 times its result, a permutation all of it.
    """
    share = (devices - 1) / devices
    factors = {
        "all-gather": share,
        "all-to-all": share,
        "all-reduce": 2 * share,
        "reduce-scatter": devices - 1,
        "collective-permute": 1,
    }
    return size * factors[kind]


def products(text: str) -> float:
    """FLOPs of the matrix products of one call of a compiled program, on one device.

    A loop whose turns the text does not tell, because data decide them, counts as one turn, and of
    a conditional its dearest branch.
    """
    return _products(_computations(text), "ENTRY")


def _products(computations, name):
    total = 0.0
    shapes: dict[str, list[int]] = {}
    for line in computations[name]:
        made = re.match(r"\s*(?:ROOT )?%?([\w.\-]+) = \w+\[([\d,]*)\]", line)
        if made:
            shapes[made[1]] = [int(n) for n in made[2].split(",") if n]
        if product := re.search(
            r" dot\((?:\S+ )?%?([\w.\-]+),.*lhs_contracting_dims=\{([\d,]+)\}", line
        ):
            assert made is not None  # the result of a product is one array, not a tuple
            over = math.prod(shapes[product[1]][i] for i in _numbers(product[2]))
            total += 2 * math.prod(shapes[made[1]]) * over
        elif branches := _branches(line):
            total += max(_products(computations, branch) for branch in branches)
        elif loop := _loop(line):
            total += _turns(computations[loop[1]], line, 1) * _products(computations, loop[2])
        else:
            for called in re.findall(r" (?:calls|to_apply)=%?([\w.\-]+)", line):
                total += _products(computations, called)
    return total


def _branches(line):
    """The names of a conditional's branches; [] for any other line."""
    branches = re.findall(r"(?:true|false)_computation=%?([\w.\-]+)", line)
    for listed in re.findall(r"branch_computations=\{([^}]*)\}", line):
        branches += [name.strip(" %") for name in listed.split(",")]
    return branches


def _loop(line):
    return re.search(r" while\(.*condition=%?([\w.\-]+), body=%?([\w.\-]+)", line)


def _computations(text):
    """name -> its lines; the entry is called ENTRY."""
    found: dict[str, list[str]] = {}
    name = None
    for line in text.splitlines():
        head = re.match(r"(ENTRY )?%?([\w.\-]+) .*\{$", line)
        if head and not line.startswith(" "):
            name = "ENTRY" if head[1] else head[2]
            found[name] = []
        elif name:
            found[name].append(line)
    return found


def _walk(computations, name, times, mesh_shape, found, chains):
    for line in computations[name]:
        if other := _OTHER.search(line):
            raise UserError(f"no rule for the bytes of a {other[1]}: {line.strip()[:200]}")
        collective = _COLLECTIVE.search(line)
        if collective and not _seen(line, chains):
            scatters = "all-reduce-scatter" in name
            _add(line, collective, times, mesh_shape, found, scatters)
        if loop := _loop(line):
            turns = _turns(computations[loop[1]], line)
            _walk(computations, loop[2], times * turns, mesh_shape, found, chains)
        elif not collective:  # whose to_apply only adds two numbers
            for called in re.findall(r" (?:calls|to_apply)=%?([\w.\-]+)", line):
                _walk(computations, called, times, mesh_shape, found, chains)
            _add_dearest(computations, _branches(line), times, mesh_shape, found)


def _add_dearest(computations, branches, times, mesh_shape, found):
    """Of the branches of a conditional, the one that sends most."""
    sent: list[_Found] = []
    for name in branches:
        sent.append(_nothing_yet())
        _walk(computations, name, times, mesh_shape, sent[-1], set())
    dearest = max(sent, key=lambda s: sum(t.bytes for t in s.values()), default=_nothing_yet())
    for key, more in dearest.items():
        found[key] = Traffic(*(a + b for a, b in zip(found[key], more, strict=True)))


def _seen(line, chains):
    """Is this a further part of a collective that the TPU compiler spreads over several fusions?"""
    chain = re.search(r"(channel_id=\d+).*(chain_id=\S+)", line)
    if not chain:
        return False
    known = chain.groups() in chains
    chains.add(chain.groups())
    return known


def _turns(condition, line, unknown=None):
    known = re.search(r'known_trip_count":\{"n":"(\d+)"', line)
    numbers = re.findall(r"s32\[\][^ ]* constant\((\d+)\)", "\n".join(condition))
    if not known and len(numbers) != 1:
        if unknown is not None:
            return unknown
        raise UserError(f"how often does this loop run? {line.strip()[:200]}")
    return int(known[1] if known else numbers[0])


def _add(line, collective, times, mesh_shape, found, scatters):
    shapes, kind, started = collective.groups()
    sizes = [_size(*shape) for shape in re.findall(r"(\w+)\[([\d,]*)\]", shapes)]
    if started and kind == "collective-permute":
        sizes = sizes[1:2]  # operand, result, and two words of context
    elif started and kind != "all-reduce":
        sizes = sizes[len(sizes) // 2 :]  # operands, then results
    group = _group(line, math.prod(mesh_shape.values()))
    if len(group) == 1:
        return
    if scatters:  # the TPU compiler's fusion of a sum and the part of it that is wanted
        kind = "reduce-scatter"
        sizes = [size / len(group) for size in sizes]
    axes = _axes(group, mesh_shape)
    old = found[kind, axes]
    sent = wire_bytes(kind, sum(sizes), len(group))
    found[kind, axes] = Traffic(old.times + times, old.bytes + times * sent)


def _size(kind, dimensions):
    if kind not in _BYTES:
        raise UserError(f"unknown type of number {kind!r}: add its bytes to _BYTES")
    return _BYTES[kind] * math.prod(int(n) for n in dimensions.split(",") if n)


def _group(line, devices):
    """The devices of the first group of a collective."""
    pairs = re.search(r"source_target_pairs=\{(.*?)\}\}", line)
    if pairs:
        ends = [[int(n) for n in pair.split(",")] for pair in re.findall(r"\d+,\d+", pairs[1])]
        return next((pair for pair in ends if pair[0] != pair[1]), [0])
    listed = re.search(r"replica_groups=\{\{([\d,]+)\}", line)
    if listed:
        return [int(n) for n in listed[1].split(",")]
    iota = re.search(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", line)
    if iota:
        return list(_iota(iota[2], iota[3]).reshape(_numbers(iota[1]))[0])
    named = re.search(rf"replica_groups=mesh\[([^\]]*)\]{_IDS} \{{([^}}]*)\}}", line)
    if named:
        return _named(*named.groups())
    if "replica_groups={}" in line:
        return list(range(devices))
    raise UserError(f"which devices take part? {line.strip()[:300]}")


def _named(sizes, dimensions, order, axes):
    """The first group of mesh['a'=2,'b'=4] {'b'}, or {'b':(1)2}: 2 of b's 4, after 1 before."""
    shape = []
    keep = []
    for name, size in re.findall(r"'(\w+)'=(\d+)", sizes):
        part = re.search(rf"'{name}'(?::\((\d+)\)(\d+))?", axes)
        before, own = (int(part[1]), int(part[2])) if part and part[1] else (1, int(size))
        shape += [before, own, int(size) // before // own]
        keep += [False, part is not None, False]
    ids = np.arange(math.prod(shape)) if dimensions is None else _iota(dimensions, order)
    index = tuple(slice(None) if kept else 0 for kept in keep)
    return list(ids.reshape(shape)[index].ravel())


def _iota(dimensions, order):
    shape = _numbers(dimensions)
    ids = np.arange(math.prod(shape)).reshape(shape)
    return (ids.transpose(_numbers(order)) if order else ids).ravel()


def _numbers(text):
    return [int(n) for n in text.split(",")]


def _axes(group, mesh_shape):
    """The axes along which the devices of a group differ."""
    places = np.unravel_index(np.asarray(group), tuple(mesh_shape.values()))
    return "+".join(a for a, p in zip(mesh_shape, places, strict=True) if np.ptp(p))
