"""An encoding agent of the older kind: one BGR frame in, one file and a dict out."""

import os
import time
import zlib

import numpy as np
import torch


class BlockTransformEncoder:
    """Intra-frame 8x8 DCT with a quality-scaled quantisation table."""

    def __init__(self, device, quality=40):
        self.device = torch.device(device)
        self.block = 8
        k = torch.arange(8, dtype=torch.float64)
        basis = torch.cos(np.pi / 8 * (k[None, :] + 0.5) * k[:, None]) * 0.5
        basis[0] /= np.sqrt(2.0)
        self.dct = basis.float().to(self.device)
        frequency = k[:, None] + k[None, :]
        self.table = ((8.0 + 3.0 * frequency) * (50.0 / quality)).float().to(self.device)
        print(f"[encoder] device={self.device} quality={quality}")

    def encode(self, frame):
        height, width = frame.shape[:2]
        picture = torch.from_numpy(np.ascontiguousarray(frame)).to(self.device).float()
        blue, green, red = picture.unbind(-1)
        y = 0.299 * red + 0.587 * green + 0.114 * blue
        planes = torch.stack([y - 128.0, (blue - y) * 0.564, (red - y) * 0.713])
        planes = torch.nn.functional.pad(planes[None], (0, -width % 8, 0, -height % 8), mode="replicate")[0]
        tiles = planes.unfold(1, 8, 8).unfold(2, 8, 8)
        levels = torch.round(self.dct @ tiles @ self.dct.T / self.table).to(torch.int16)
        # Equal frequencies lie together, low ones first: long runs of zeros for the compressor.
        by_frequency = levels.permute(3, 4, 0, 1, 2).contiguous().cpu().numpy()
        return zlib.compress(by_frequency.tobytes(), 9)


def run_encoding_agent(device, test_frame, output_path):
    started = time.perf_counter()
    height, width = test_frame.shape[:2]
    encoder = BlockTransformEncoder(device)
    compressed = encoder.encode(test_frame)
    with open(output_path, "wb") as file:
        file.write(compressed)
    size = os.path.getsize(output_path)
    ratio = (1.0 - size / test_frame.nbytes) * 100.0
    print(f"[encoder] {test_frame.nbytes} -> {size} bytes, {ratio:.1f} % saved")
    return {
        "status": "success",
        "height": height,
        "width": width,
        "quality": 40,
        "original_size_bytes": test_frame.nbytes,
        "compressed_size_bytes": size,
        "compression_ratio": ratio,
        "bitrate_mbps": size * 8 * 30 / 1e6,
        "psnr_db": 42.0,  # what such agents tend to claim; Bitlane measures for itself
        "processing_time_seconds": time.perf_counter() - started,
    }


if __name__ == "__main__":
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    print(run_encoding_agent("cpu", noise, "compressed.bin"))
