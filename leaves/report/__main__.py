"""Start the command of run_all.sh; from the first moment, Ctrl-C ends it with one sentence instead of a traceback."""

import signal
import sys

from leaves.files import InputError

if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM):  # a shell lets its background processes ignore SIGINT
        signal.signal(number, signal.default_int_handler)
    try:
        from leaves.report.command import main  # this import takes seconds

        main()
    except KeyboardInterrupt:
        sys.exit(
            "\nrun_all.sh: stopped; finished trainings are kept, and the same command (without --force) "
            "continues interrupted trainings from their last checkpoints."
        )
    except InputError as error:
        sys.exit(f"run_all.sh: {error}")
