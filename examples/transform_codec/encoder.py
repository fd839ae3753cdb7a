"""A small transform codec for video: 3D DCT, uniform quantisation, context-modelled rANS.

Frames go to YCbCr with 4:2:0 subsampling. Groups of 8 frames are cut into cubes of 8x8x8 samples, each cube becomes
512 coefficients, and a coefficient's bits are spent according to what its lower-frequency neighbours turned out to be.
There is no motion search: this is a sample to start from. ``params["quality"]`` (0.5 to 512, default 32) sets the
quantiser's step to 768 / quality.

The bitstream is a run of segments of whole groups, so that memory stays bounded. Each holds a header, frequency tables,
the rANS lanes' final states, rANS words, and raw bits (signs and magnitudes' tails).
"""

import struct
import zlib

import numpy as np
import torch
import torch.nn.functional as F

N = 8  # a cube's edge, in samples and in frames
CUBE = N * N * N
DEFAULT_QUALITY = 32.0
# Rounding offsets below one half widen the zero bin: such coefficients cost more bits than they are worth.
ROUND_AC, ROUND_DC = 0.34, 0.5

SYMBOLS = 24  # magnitudes 0..7, then ranges that double: 8-9, 10-13, 14-21 ...
LITERALS = 8
ENDS = np.array([0, 1, 2, 4, 7, 11, 16, 23, 32, 45, 64, 90, 128, 181, 256, 362, 512])
POSITION_CLASSES, NEIGHBOUR_CLASSES = 14, 9
CONTEXTS_A_KIND = len(ENDS) + POSITION_CLASSES * NEIGHBOUR_CLASSES
PROB_BITS = 12
HEADER = struct.Struct("<fHIII")
SEGMENT_SAMPLES = 40_000_000
BITS_AT_ONCE = 1 << 20


def setup(ctx):
    """Pay for lazy initialisation before the clock starts."""
    transform(torch.zeros(N, N, N, device=ctx.device))


def encode(frames, ctx):
    """[T, 3, H, W] uint8 RGB -> bytes."""
    step = 768.0 / min(512.0, max(0.5, float(ctx.params.get("quality", DEFAULT_QUALITY))))
    span = segment_frames(frames.shape[-2], frames.shape[-1])
    return b"".join(encode_segment(frames[at : at + span], step) for at in range(0, frames.shape[0], span))


def segment_frames(height, width):
    """How many frames a segment has: whole groups, at least one."""
    return N * max(1, SEGMENT_SAMPLES // (N * height * width * 3 // 2))


def encode_segment(frames, step):
    luma, chroma = [], []
    for start in range(0, frames.shape[0], N):
        y, cb, cr = to_planes(fill_group(frames[start : start + N]))
        luma.append(quantise(transform(y), step))
        chroma += [quantise(transform(cb), step), quantise(transform(cr), step)]
    kinds = [code_kind(torch.stack(cubes).cpu().numpy(), kind) for kind, cubes in enumerate((luma, chroma))]
    runs = [run for kind_runs, _ in kinds for run in kind_runs]
    raw = pack_bits(np.concatenate([values for _, values in kinds], axis=1))
    return assemble(step, runs, raw)


# --- samples to coefficients ---------------------------------------------------------------------------------------


def fill_group(frames):
    """Repeat the last frame up to a full group; the decoder drops what it does not need."""
    missing = N - frames.shape[0]
    return torch.cat([frames, frames[-1:].expand(missing, -1, -1, -1)]) if missing else frames


def to_planes(frames):
    """[8, 3, H, W] uint8 -> Y [8, H, W] and Cb, Cr [8, H/2, W/2] (rounded up), float32 around 0, full-range BT.601."""
    red, green, blue = frames.float().unbind(1)
    y = 0.299 * red + 0.587 * green + 0.114 * blue
    height, width = y.shape[-2:]
    colour = torch.stack([(blue - y) * (0.5 / 0.886), (red - y) * (0.5 / 0.701)])
    colour = F.pad(colour, (0, width % 2, 0, height % 2), mode="replicate")
    cb, cr = F.avg_pool2d(colour, 2)
    return y - 128.0, cb, cr


def dct_matrix(device):
    """Orthonormal DCT-II of 8 samples."""
    k = torch.arange(N, dtype=torch.float64)
    basis = torch.cos(torch.pi / N * (k[None, :] + 0.5) * k[:, None]) * (2.0 / N) ** 0.5
    basis[0] *= 0.5**0.5
    return basis.float().to(device)


def transform(plane):
    """[8, H, W] -> [rows, columns, 512] coefficients of each cube, index (t * 8 + y) * 8 + x."""
    height, width = plane.shape[-2:]
    plane = F.pad(plane, (0, -width % N, 0, -height % N), mode="replicate")
    rows, columns = plane.shape[-2] // N, plane.shape[-1] // N
    dct = dct_matrix(plane.device)
    tiles = plane.view(N, rows, N, columns, N).permute(0, 1, 3, 2, 4).reshape(N, -1, N * N)
    flat = tiles @ torch.kron(dct, dct).T
    cubes = (dct @ flat.view(N, -1)).view(N, rows * columns, N * N)
    return cubes.permute(1, 0, 2).reshape(rows, columns, CUBE)


def quantise(cubes, step):
    """Coefficients -> int16; the first of each cube is predicted from the cube on its left, or above at the edge."""
    scaled = cubes / step
    levels = (scaled.abs() + ROUND_AC).floor() * scaled.sign()
    dc = (scaled[..., 0] + ROUND_DC).floor()
    levels[..., 0] = dc
    levels[:, 1:, 0] -= dc[:, :-1]
    levels[1:, 0, 0] -= dc[:-1, 0]
    return levels.to(torch.int16)


# --- coefficients to symbols (the decoder has the same model) ------------------------------------------------------


def scan_order():
    """The 512 positions from low to high frequency, as rows (t, y, x)."""
    cells = [(t, y, x) for t in range(N) for y in range(N) for x in range(N)]
    return sorted(cells, key=lambda cell: (sum(cell), max(cell), cell))


def position_classes(order):
    """A class for each scan position: how high its frequency is, and whether it is still in time."""
    bounds = (1, 2, 3, 5, 7, 10)
    return [0 if cell == (0, 0, 0) else 1 + sum(sum(cell) >= b for b in bounds) + 6 * (cell[0] > 0) for cell in order]


def lower_neighbours(order):
    """For each scan position the places in the scan of its lower-frequency neighbours: the near ones, the far ones."""
    place = {cell: index for index, cell in enumerate(order)}
    near, far = ((1, 0, 0), (0, 1, 0), (0, 0, 1)), ((0, 1, 1), (1, 0, 1), (1, 1, 0), (0, 2, 0), (0, 0, 2))
    found = []
    for t, y, x in order:
        both = [[place.get((t - a, y - b, x - c)) for a, b, c in steps] for steps in (near, far)]
        found.append([[p for p in places if p is not None] for places in both])
    return found


def neighbour_classes():
    """The class of each weighted sum of the neighbours' symbols."""
    return np.digitize(np.arange(512), (1, 2, 3, 5, 7, 10, 15, 24)).astype(np.uint16)


def context_of(symbols, count, neighbours, classes):
    """The neighbour class of the first ``count`` cubes at one position."""
    near, far = neighbours
    total = np.zeros(count, np.uint16)
    for place in near:
        total += symbols[place, :count]
    total <<= 1
    for place in far:
        total += symbols[place, :count]
    return classes[total]


def code_kind(levels, kind):
    """int16 [groups, rows, columns, 512] -> runs of (contexts, symbols) in coding order, and raw bits [2, n].

    A raw entry is (value, width): a coefficient's sign and its magnitude's tail.
    """
    groups = levels.shape[0]
    order = scan_order()
    scan = np.array([(t * N + y) * N + x for t, y, x in order])
    flat = levels.reshape(-1, CUBE)[:, scan]
    used = flat != 0
    last = np.where(used.any(1), CUBE - used[:, ::-1].argmax(1), 0)
    end = np.searchsorted(ENDS, last).astype(np.uint8)
    ends = end.reshape(groups, -1)
    previous = np.concatenate([np.zeros_like(ends[:1]), ends[:-1]])
    first = kind * CONTEXTS_A_KIND
    runs = [(first + was.astype(np.uint16), now) for was, now in zip(previous, ends, strict=True)]

    # Cubes with the most coefficients first: those that still have one at a position are then a prefix.
    by_size = np.argsort(-ENDS[end], kind="stable")
    values = np.ascontiguousarray(flat[by_size].T)
    sizes = ENDS[end][by_size]
    coded = values != 0
    present = values[coded]
    symbols = np.zeros(values.shape, np.uint8)
    symbols[coded], tails, widths = symbols_of(np.abs(present).astype(np.int64))
    counts = np.searchsorted(-sizes, -np.arange(CUBE), side="left")
    position, neighbours, classes = position_classes(order), lower_neighbours(order), neighbour_classes()
    for k in range(CUBE):
        count = int(counts[k])
        if count == 0:
            break
        base = first + len(ENDS) + position[k] * NEIGHBOUR_CLASSES
        runs.append((context_of(symbols, count, neighbours[k], classes) + np.uint16(base), symbols[k, :count]))
    sign = (present < 0).astype(np.int64)
    return runs, np.stack([sign << widths | tails, widths + 1])


def symbols_of(magnitudes):
    """Magnitudes -> symbol, the tail within the symbol's range, and the tail's width in bits."""
    over = np.maximum(magnitudes - LITERALS + 2, 1)
    widths = np.frexp(over)[1].astype(np.int64) - 1
    symbols = np.where(magnitudes < LITERALS, magnitudes, LITERALS + widths - 1)
    return symbols, over - (1 << widths), widths


def pack_bits(values):
    """(value, width) pairs -> bytes, most significant bit first."""
    bits = []
    for at in range(0, values.shape[1], BITS_AT_ONCE):
        value, width = values[:, at : at + BITS_AT_ONCE]
        ends = np.cumsum(width)
        shift = np.repeat(ends, width) - 1 - np.arange(ends[-1])
        bits.append((np.repeat(value, width) >> shift & 1).astype(np.uint8))
    return np.packbits(np.concatenate(bits)).tobytes() if bits else b""


# --- symbols to bytes ----------------------------------------------------------------------------------------------


def quantise_counts(counts):
    """Counts -> one byte each, eighths of an octave, which is what the decoder gets."""
    return np.where(counts > 0, np.round(8 * np.log2(np.maximum(counts, 1))) + 1, 0).astype(np.uint8)


def frequencies(logs):
    """Those bytes -> integer frequencies, each row summing to 4096."""
    weights = np.array([0] + [round(16 * 2 ** (v / 8)) for v in range(255)], dtype=np.int64)[logs]
    # A symbol that is alone in its context needs a partner: a frequency of 4096 would overflow the state.
    weights[:, :2] += (weights.sum(1) == weights.max(1))[:, None]
    scale = 1 << PROB_BITS
    freq = np.where(weights > 0, np.maximum(weights * scale // weights.sum(1, keepdims=True), 1), 0)
    freq[np.arange(len(freq)), freq.argmax(1)] += scale - freq.sum(1)
    return freq


def assemble(step, runs, raw):
    contexts = np.concatenate([context for context, _ in runs]).astype(np.int64)
    symbols = np.concatenate([symbol for _, symbol in runs])
    cells = contexts * SYMBOLS + symbols
    counts = np.bincount(cells, minlength=2 * CONTEXTS_A_KIND * SYMBOLS).reshape(-1, SYMBOLS)
    logs = quantise_counts(counts)
    freq = frequencies(logs)
    start = np.cumsum(freq, axis=1) - freq
    lanes = int(min(512, max(16, len(cells) // 4096)))
    lengths = [len(symbol) for _, symbol in runs]
    states, words = rans(cells, freq.astype(np.uint32).ravel(), start.astype(np.uint32).ravel(), lengths, lanes)
    tables = zlib.compress(logs.tobytes(), 9)
    header = HEADER.pack(step, lanes, len(tables), len(words), len(raw))
    return header + tables + states.astype("<u4").tobytes() + words.astype("<u2").tobytes() + raw


def rans(cells, freq, start, lengths, lanes):
    """Interleaved rANS: each run is cut into chunks of ``lanes`` symbols, one a lane; coded last to first."""
    states = np.full(lanes, 1 << 16, np.uint32)
    chunks = []
    at = len(cells)
    for length in reversed(lengths):
        begin = at - length
        for low in reversed(range(begin, at, lanes)):
            cell = cells[low : min(low + lanes, at)]
            f = freq[cell]
            x = states[: len(cell)]
            full = x >= f << np.uint32(32 - PROB_BITS)
            chunks.append(x[full].astype(np.uint16))
            x = np.where(full, x >> np.uint32(16), x)
            whole = x // f
            states[: len(cell)] = (whole << np.uint32(PROB_BITS)) + (x - whole * f) + start[cell]
        at = begin
    return states, np.concatenate(chunks[::-1]) if chunks else np.zeros(0, np.uint16)
