"""Stand-ins for Silero's files: a runtime that runs WebAssembly, and a model that takes for a voice what is loud. They
prove that the page fetches, starts and asks them, and under which policy; not that Silero's model tells voices."""

from __future__ import annotations

from pathlib import Path

from gateway.silero import write_files

_RUNTIME = """
const EMPTY = new Uint8Array([0, 97, 115, 109, 1, 0, 0, 0]);
export const env = { wasm: {} };
export class Tensor { constructor(type, data, dims) { Object.assign(this, { type, data, dims }); } }
export class InferenceSession {
  static async create(model) {
    await WebAssembly.compile(EMPTY);
    await import(env.wasm.wasmPaths + "ort-wasm-simd-threaded.mjs");
    await WebAssembly.compileStreaming(fetch(env.wasm.wasmPaths + "ort-wasm-simd-threaded.wasm"));
    if (model.length !== 4) throw new Error("that is no model");
    return new InferenceSession();
  }
  async run({ input, state, sr }) {
    if (input.data.length !== 576 || state.data.length !== 256 || sr.data[0] !== 16000n) throw new Error("not that");
    const power = input.data.reduce((sum, x) => sum + x * x, 0) / input.data.length;
    return { output: { data: [power > 1e-4 ? 0.9 : 0.1] }, stateN: state };
  }
}
"""


def write_silero(state_dir: Path) -> Path:
    """The folder."""
    return write_files(
        state_dir,
        {
            "ort.wasm.min.mjs": _RUNTIME.encode(),
            "ort-wasm-simd-threaded.mjs": b"export default 1;",
            "ort-wasm-simd-threaded.wasm": bytes([0, 97, 115, 109, 1, 0, 0, 0]),
            "silero_vad_v6.onnx": b"onnx",
        },
    )
