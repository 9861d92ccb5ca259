"""Its other half: load the engine, feed it arrays, print what comes out.

    python inference_int8_trt.py model-int8.engine calib_data

The engine runs where its GPU is. Elsewhere give the INT8 model beside it, model-int8.int8.onnx, which runs on the CPU.
"""

import argparse
from pathlib import Path

import calib8


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("engine", type=Path)
    parser.add_argument("data", type=Path, help="folder with one <input name>.npy for each input, of any length")
    args = parser.parse_args()
    try:
        outputs = calib8.run(args.engine, args.data)
    except calib8.Calib8Error as error:
        parser.exit(error.exit_code, f"error: {error}\n")
    for name, array in outputs.items():
        print(f"{name}: {array.dtype} {list(array.shape)}\n{array}")


if __name__ == "__main__":
    main()
