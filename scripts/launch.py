"""Run a command on leased GPUs: `launch.py --gpus N -- command …`; 0 hides all GPUs.

Snakemake counts GPUs but does not say which are whose. This takes a lease on N of the visible ones, exports
CUDA_VISIBLE_DEVICES and becomes the command, which refuses to run without them (core/cli.py). Inside Slurm those of the
allocation are leased: several jobs may run in one.
"""

import os
import sys

from pruning.core import devices, gpu_request
from pruning.core.errors import InputError


def main(arguments: list[str]) -> None:
    gpus, command = int(arguments[arguments.index("--gpus") + 1]), arguments[arguments.index("--") + 1 :]
    os.environ[gpu_request.ASKED] = str(gpus)
    if gpus == 0:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    else:
        try:
            os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(devices.lease(gpus, devices.visible()))
        except InputError as error:
            sys.exit(f"error: {error}")
    os.execvp(command[0], command)


if __name__ == "__main__":
    main(sys.argv[1:])
