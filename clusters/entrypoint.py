"""What a RayJob runs: a command that is tried again where that may help, and whose end is explained in the last line of its log.

`python -m clusters.entrypoint --retries 3 --patience 90 -- COMMAND…`

KubeRay retries whatever fails, with another cluster, and forgets why. So it is told not to, and this decides by the exit codes
of `latentlake run`. Ray keeps the end of the log as the job's message, which KubeRay copies into the RayJob's status.
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from types import FrameType

FAILED, WRONG, REFUSED, CONFLICT, INTERRUPTED = 1, 2, 3, 4, 130
MEANINGS = {
    0: "done",
    FAILED: "failed; what is finished is kept, and the next run resumes",
    WRONG: "the job or the cluster profile is wrong; nothing was started",
    REFUSED: "a gate refused publication; readers see what they saw before",
    CONFLICT: "another run is writing the table",
    INTERRUPTED: "stopped; the next run resumes",
}
PAUSE_S, LONGEST_PAUSE_S = 10.0, 300.0
CONFLICT_PAUSE_S = 10.0


class Guard:
    """Runs a command until its end is final. `say` prints a line; `sleep` waits."""

    def __init__(
        self,
        command: Sequence[str],
        retries: int,
        patience_s: float,
        pause_s: float = PAUSE_S,
        say: Callable[[str], None] = lambda line: print(line, file=sys.stderr, flush=True),
    ) -> None:
        self.command = list(command)
        self.retries, self.patience_s, self.pause_s = retries, patience_s, pause_s
        self.say = say
        self.stopped = False

    def stop(self, _signal: int, _frame: FrameType | None) -> None:
        """Note that the job is to stop. Ray sends the signal to every process of a job, the command's too."""
        self.stopped = True

    def run(self) -> int:
        """The command's exit code, as far as anything was left to try."""
        tried, pause_s, began = 0, self.pause_s, time.monotonic()
        while True:
            code = INTERRUPTED if self.stopped else exit_code(subprocess.call(self.command))
            if self.stopped:
                code = INTERRUPTED if code in (FAILED, INTERRUPTED) else code
            elif code == CONFLICT and time.monotonic() - began < self.patience_s:
                # The lease of a driver that was lost with its pod runs out by itself.
                self.say(f"latentlake: {MEANINGS[CONFLICT]}; asking again in {CONFLICT_PAUSE_S:.0f} s")
                self.wait(min(CONFLICT_PAUSE_S, self.pause_s))
                continue
            elif is_passing(code) and tried < self.retries:
                tried += 1
                self.say(f"latentlake: exit code {code}; retry {tried} of {self.retries} in {pause_s:.0f} s")
                self.wait(pause_s)
                pause_s, began = min(2 * pause_s, LONGEST_PAUSE_S), time.monotonic()
                continue
            again = f" after {tried} retries" if tried else ""
            self.say(f"latentlake: exit code {code}{again}: {MEANINGS.get(code, 'ended by a signal')}")
            return code

    def wait(self, seconds: float) -> None:
        """Wait, unless the job is told to stop."""
        until = time.monotonic() + seconds
        while not self.stopped and (left := until - time.monotonic()) > 0:
            time.sleep(min(left, 0.5))


def exit_code(returned: int) -> int:
    """The exit code of a process, as a shell tells it: one that a signal ended has 128 and the signal."""
    return 128 - returned if returned < 0 else returned


def is_passing(code: int) -> bool:
    """Whether what went wrong may pass: a store that did not answer, nodes that were lost, a kill for memory."""
    return code == FAILED or code == 128 + signal.SIGKILL


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command of the arguments; see the file's head."""
    parser = argparse.ArgumentParser(prog="python -m clusters.entrypoint", description="Run a job, and retry it.")
    parser.add_argument("--retries", type=int, default=3, help="how often exit code 1 is tried again")
    parser.add_argument("--patience", type=float, default=90, help="seconds that exit code 4 is asked again")
    parser.add_argument(
        "--pause", type=float, default=PAUSE_S, help="seconds before the first retry; then twice as many"
    )
    parser.add_argument("command", nargs="+", help="after --")
    given = parser.parse_args(arguments)
    guard = Guard(given.command, given.retries, given.patience, given.pause)
    signal.signal(signal.SIGTERM, guard.stop)
    signal.signal(signal.SIGINT, guard.stop)
    return guard.run()


if __name__ == "__main__":
    sys.exit(main())
