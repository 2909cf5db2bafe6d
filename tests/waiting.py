"""Waiting for other processes and for calls, by tests that must not hang where nothing comes."""
import threading
import time


def wait_for(condition, seconds=30):
    """Whether the condition comes true in time."""
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(.02)
    return condition()


def ends(job, seconds=20):
    """Call `job` -> what it gives, or raise what it raises; AssertionError where it goes on.

    The job runs in a thread of its own, which is left alone where it hangs, in a pipe for example.
    """
    results = []
    errors = []

    def work():
        try:
            results.append(job())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(seconds)
    if errors:
        raise errors[0]
    assert results, f"it had not come to an end after {seconds} s: does it wait for a pipe?"
    return results[0]
