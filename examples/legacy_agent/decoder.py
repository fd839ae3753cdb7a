"""A decoding agent of the older kind: the encoder's file and dict in, a picture out."""

import time
import zlib

import numpy as np
import torch
from PIL import Image


class BlockTransformDecoder:
    """Undoes the 8x8 DCT of the encoding agent."""

    def __init__(self, device, quality):
        self.device = torch.device(device)
        k = torch.arange(8, dtype=torch.float64)
        basis = torch.cos(np.pi / 8 * (k[None, :] + 0.5) * k[:, None]) * 0.5
        basis[0] /= np.sqrt(2.0)
        self.dct = basis.float().to(self.device)
        frequency = k[:, None] + k[None, :]
        self.table = ((8.0 + 3.0 * frequency) * (50.0 / quality)).float().to(self.device)

    def decode(self, compressed, height, width):
        rows, columns = -(-height // 8), -(-width // 8)
        levels = np.frombuffer(bytearray(zlib.decompress(compressed)), np.int16).reshape(8, 8, 3, rows, columns)
        coefficients = torch.from_numpy(levels).to(self.device).float().permute(2, 3, 4, 0, 1) * self.table
        tiles = self.dct.T @ coefficients @ self.dct
        planes = tiles.permute(0, 1, 3, 2, 4).reshape(3, rows * 8, columns * 8)[:, :height, :width]
        y, cb, cr = planes[0] + 128.0, planes[1], planes[2]
        red, blue = y + cr / 0.713, y + cb / 0.564
        green = (y - 0.299 * red - 0.114 * blue) / 0.587
        picture = torch.stack([red, green, blue], dim=-1)
        return picture.round().clamp(0, 255).to(torch.uint8).cpu().numpy()


def run_decoding_agent(device, encoding_data, compressed_path, output_path):
    started = time.perf_counter()
    with open(compressed_path, "rb") as file:
        compressed = file.read()
    decoder = BlockTransformDecoder(device, encoding_data["quality"])
    picture = decoder.decode(compressed, encoding_data["height"], encoding_data["width"])
    Image.fromarray(picture).save(output_path, format="PNG")
    print(f"[decoder] wrote {picture.shape[1]}x{picture.shape[0]} to {output_path}")
    return {"status": "success", "output_path": output_path, "decoding_time": time.perf_counter() - started}
