"""The script that everybody knows: an ONNX model and a folder of calibration arrays become an INT8 engine.

    python build_int8_engine.py model.onnx calib_data model-int8.engine [--target sm86]

Runs with TensorRT 10, 11 and RTX. `calib_data` holds one `<input name>.npy` for each input of the model.
"""

import argparse
from pathlib import Path

import calib8


def main() -> None:
    """Parse the command line and build."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("onnx", "calib_data", "engine"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--target", help="GPUs to build for with TensorRT-RTX: sm86,sm89")
    parser.add_argument("--shapes", action="append", default=[], help="default: as in the calibration data")
    args = parser.parse_args()
    try:
        chosen, model = calib8.Build(shapes=args.shapes, targets=args.target), calib8.load(args.onnx)
        _ = chosen.profiles(model) if args.shapes else ()  # tells what does not fit before the long work
        with calib8.ConsoleProgress() as progress:
            cache, fast = args.engine.with_name("calibration.cache"), calib8.Int8(optimize="latency")
            ranges = calib8.calibrate(model, args.calib_data, cache=cache, progress=progress)
            int8 = calib8.quantize(model, ranges, fast, data=args.calib_data, progress=progress)
            quantised = calib8.save(int8, args.engine.with_suffix(".int8.onnx"))
            for engine in calib8.build(quantised, args.engine, chosen, progress=progress):
                print(f"{engine.path}: {engine.plan.covered} of {engine.plan.expected} quantised ops planned in INT8")
    except calib8.Calib8Error as error:
        parser.exit(error.exit_code, f"error: {error}\n")
    except KeyboardInterrupt:
        parser.exit(130)


if __name__ == "__main__":
    main()
