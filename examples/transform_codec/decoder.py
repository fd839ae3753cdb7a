"""The decoder of the small transform codec: rANS, dequantisation, inverse 3D DCT. See encoder.py for the format."""

import struct
import zlib

import numpy as np
import torch
import torch.nn.functional as F

N = 8
CUBE = N * N * N
# The mean of a bin lies nearer to zero than its middle, since small coefficients are the more frequent ones.
SHRINK = 0.04

SYMBOLS = 24
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
    inverse(torch.zeros(1, 1, CUBE, device=ctx.device), N, N)


def decode(bitstream, ctx):
    """bytes -> [T, 3, H, W] uint8 RGB."""
    bitstream = bytes(bitstream)
    clip = ctx.clip
    frames = torch.empty(clip.frames, 3, clip.height, clip.width, dtype=torch.uint8, device=ctx.device)
    at = 0
    for segment in frames.split(segment_frames(clip.height, clip.width)):
        at = decode_segment(bitstream, at, segment)
    return frames


def segment_frames(height, width):
    """How many frames a segment has: whole groups, at least one."""
    return N * max(1, SEGMENT_SAMPLES // (N * height * width * 3 // 2))


def decode_segment(bitstream, at, frames):
    """Fill ``frames`` from the segment at ``at``; return where the next one starts."""
    count, _, height, width = frames.shape
    half = (-(-height // 2), -(-width // 2))
    groups = -(-count // N)
    source = Source(bitstream, at)
    shapes = ((groups, *cubes_in(height, width)), (2 * groups, *cubes_in(*half)))
    coded = [read_symbols(source, kind, shape) for kind, shape in enumerate(shapes)]
    both = [read_levels(source, *parts, shape) for parts, shape in zip(coded, shapes, strict=True)]
    luma, chroma = (torch.from_numpy(levels) for levels in both)
    for group in range(groups):
        y = inverse(dequantise(luma[group].to(frames.device), source.step), height, width)
        cb = inverse(dequantise(chroma[2 * group].to(frames.device), source.step), *half)
        cr = inverse(dequantise(chroma[2 * group + 1].to(frames.device), source.step), *half)
        start = group * N
        frames[start : start + N] = to_rgb(y, cb, cr)[: count - start]
    return source.end


# --- bytes to symbols ----------------------------------------------------------------------------------------------


def frequencies(logs):
    """The tables' bytes -> integer frequencies, each row summing to 4096."""
    weights = np.array([0] + [round(16 * 2 ** (v / 8)) for v in range(255)], dtype=np.int64)[logs]
    weights[:, :2] += (weights.sum(1) == weights.max(1))[:, None]
    scale = 1 << PROB_BITS
    freq = np.where(weights > 0, np.maximum(weights * scale // weights.sum(1, keepdims=True), 1), 0)
    freq[np.arange(len(freq)), freq.argmax(1)] += scale - freq.sum(1)
    return freq


class Source:
    """One segment's interleaved rANS streams and the raw bits behind them."""

    def __init__(self, data, at):
        self.step, lanes, table_bytes, words, raw_bytes = HEADER.unpack_from(data, at)
        at += HEADER.size
        logs = np.frombuffer(zlib.decompress(data[at : at + table_bytes]), np.uint8).reshape(-1, SYMBOLS)
        at += table_bytes
        self.states = np.frombuffer(data, "<u4", lanes, at).astype(np.uint32)
        at += 4 * lanes
        self.words = np.frombuffer(data, "<u2", words, at).astype(np.uint32)
        at += 2 * words
        self.bits = np.unpackbits(np.frombuffer(data, np.uint8, raw_bytes, at))
        self.end = at + raw_bytes
        self.lanes, self.next_word, self.next_bit = lanes, 0, 0
        self.table = self._table(frequencies(logs))

    @staticmethod
    def _table(freq):
        """One uint32 a context and slot: symbol << 24 | slot within the symbol << 12 | frequency."""
        symbol = np.tile(np.arange(SYMBOLS), len(freq))
        inside = np.repeat(symbol, freq.ravel())
        start = np.repeat((np.cumsum(freq, axis=1) - freq).ravel(), freq.ravel())
        size = np.repeat(freq.ravel(), freq.ravel())
        slots = np.tile(np.arange(1 << PROB_BITS), len(freq))
        return (inside << 24 | (slots - start) << 12 | size).astype(np.uint32)

    def read(self, contexts):
        """The symbols of one run, given each one's context."""
        out = np.empty(len(contexts), np.uint8)
        rows = contexts.astype(np.uint32) << np.uint32(PROB_BITS)
        mask, shift = np.uint32((1 << PROB_BITS) - 1), np.uint32(PROB_BITS)
        for low in range(0, len(contexts), self.lanes):
            row = rows[low : low + self.lanes]
            x = self.states[: len(row)]
            entry = self.table[row | (x & mask)]
            out[low : low + self.lanes] = entry >> np.uint32(24)
            x = (entry & mask) * (x >> shift) + (entry >> shift & mask)
            short = np.flatnonzero(x < 65536)
            end = self.next_word + len(short)
            x[short] = x[short] << np.uint32(16) | self.words[self.next_word : end]
            self.next_word = end
            self.states[: len(row)] = x
        return out

    def read_bits(self, widths):
        """Raw values of these widths, most significant bit first."""
        values = np.empty(len(widths), np.int64)
        for at in range(0, len(widths), BITS_AT_ONCE):
            width = widths[at : at + BITS_AT_ONCE]
            ends = np.cumsum(width)
            bits = self.bits[self.next_bit : self.next_bit + ends[-1]].astype(np.int64)
            bits <<= np.repeat(ends, width) - 1 - np.arange(ends[-1])
            values[at : at + BITS_AT_ONCE] = np.add.reduceat(bits, ends - width)
            self.next_bit += int(ends[-1])
        return values


# --- symbols to coefficients (the encoder has the same model) ------------------------------------------------------


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


def cubes_in(height, width):
    return -(-height // N), -(-width // N)


def read_symbols(source, kind, shape):
    """The symbols [512, cubes] of a kind of plane, largest cubes first, and that order."""
    groups, rows, columns = shape
    first = kind * CONTEXTS_A_KIND
    ends = np.zeros((groups, rows * columns), np.uint8)
    for group in range(groups):
        previous = ends[group - 1] if group else np.zeros(rows * columns, np.uint8)
        ends[group] = source.read(first + previous.astype(np.uint16))
    sizes = ENDS[ends.ravel()]
    by_size = np.argsort(-sizes, kind="stable")
    counts = np.searchsorted(-sizes[by_size], -np.arange(CUBE), side="left")
    order = scan_order()
    symbols = np.zeros((CUBE, len(sizes)), np.uint8)
    position, neighbours, classes = position_classes(order), lower_neighbours(order), neighbour_classes()
    for k in range(CUBE):
        count = int(counts[k])
        if count == 0:
            break
        base = first + len(ENDS) + position[k] * NEIGHBOUR_CLASSES
        symbols[k, :count] = source.read(context_of(symbols, count, neighbours[k], classes) + np.uint16(base))
    return symbols, by_size


def read_levels(source, symbols, by_size, shape):
    """Symbols -> int16 levels [groups, rows, columns, 512] with the first of each cube still predicted."""
    coded = symbols > 0
    symbol = symbols[coded].astype(np.int64)
    widths = np.maximum(symbol - LITERALS + 1, 0)
    raw = source.read_bits(widths + 1)
    tail = raw & (1 << widths) - 1
    magnitude = np.where(symbol < LITERALS, symbol, LITERALS - 2 + (1 << widths) + tail)
    values = np.zeros(symbols.shape, np.int16)
    values[coded] = np.where(raw >> widths & 1, -magnitude, magnitude)
    scan = [(t * N + y) * N + x for t, y, x in scan_order()]
    flat = np.empty((len(by_size), CUBE), np.int16)
    back = np.empty_like(values)
    back[scan] = values
    flat[by_size] = back.T
    return flat.reshape(*shape, CUBE)


# --- coefficients to samples ---------------------------------------------------------------------------------------


def dequantise(levels, step):
    """int16 [rows, columns, 512] -> float32 coefficients, the prediction of the first one undone."""
    values = levels.float()
    dc = values[..., 0].clone()
    dc[:, 0] = dc[:, 0].cumsum(0)
    values = values - SHRINK * values.sign()
    values[..., 0] = dc.cumsum(1)
    return values * step


def dct_matrix(device):
    k = torch.arange(N, dtype=torch.float64)
    basis = torch.cos(torch.pi / N * (k[None, :] + 0.5) * k[:, None]) * (2.0 / N) ** 0.5
    basis[0] *= 0.5**0.5
    return basis.float().to(device)


def inverse(cubes, height, width):
    """[rows, columns, 512] coefficients -> [8, H, W] samples."""
    rows, columns, _ = cubes.shape
    dct = dct_matrix(cubes.device)
    flat = cubes.view(-1, N, N * N).permute(1, 0, 2).reshape(N, -1)
    tiles = (dct.T @ flat).view(N, rows * columns, N * N) @ torch.kron(dct, dct)
    plane = tiles.view(N, rows, columns, N, N).permute(0, 1, 3, 2, 4).reshape(N, rows * N, columns * N)
    return plane[:, :height, :width]


def to_rgb(y, cb, cr):
    """Y [8, H, W] and half-size Cb, Cr -> [8, 3, H, W] uint8, full-range BT.601."""
    height, width = y.shape[-2:]
    size = (2 * cb.shape[-2], 2 * cb.shape[-1])
    colour = F.interpolate(torch.stack([cb, cr], dim=1), size=size, mode="bilinear", align_corners=False)
    cb, cr = colour[:, :, :height, :width].unbind(1)
    y = y + 128.0
    red, blue = y + 1.402 * cr, y + 1.772 * cb
    green = (y - 0.299 * red - 0.114 * blue) / 0.587
    return torch.stack([red, green, blue], dim=1).round_().clamp_(0, 255).to(torch.uint8)
