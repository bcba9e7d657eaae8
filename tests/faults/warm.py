"""Starts Python programs at once: imports what they need, then forks a process for each.

Reads a JSON object per line and answers each with one. {"argv": [script, argument, …], "environ": {…},
"output": file, "largest_file": bytes or null} starts a program in a session of its own and gives its "pid";
{"pid": n} gives its "status": as `subprocess` has it, null as long as it runs.
"""

import json
import os
import resource
import runpy
import sys
import time

import torch
import torch.utils.tensorboard

import labelenc.errors
import labelenc.pipeline

torch.set_num_threads(1)
assert labelenc.errors
assert labelenc.pipeline


def run(order: dict) -> None:
    os.setsid()
    output = os.open(order["output"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.environ.update(order["environ"])
    if order["largest_file"] is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (order["largest_file"], resource.RLIM_INFINITY))
    sys.argv = order["argv"]
    sys.path.insert(0, os.path.dirname(sys.argv[0]))  # noqa: PTH120
    runpy.run_path(sys.argv[0], run_name="__main__")


def status_of(pid: int) -> int | None:
    finished, status = os.waitpid(pid, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if finished else None


def main() -> None:
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        if "pid" in order:
            print(json.dumps({"status": status_of(order["pid"])}), flush=True)
            continue
        pid = os.fork()
        if pid == 0:
            # Out of the loop: the program ends as any other, with its exit handlers.
            return run(order)
        while os.getsid(pid) != pid:
            time.sleep(0.001)
        print(json.dumps({"pid": pid}), flush=True)
    return None


if __name__ == "__main__":
    main()
