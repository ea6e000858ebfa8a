import gc
import subprocess
import sys
import threading
import time
import weakref

import pytest

from vlmreward.wrappers.worker_thread import WorkerThread


def test_jobs_run_in_order_off_the_main_thread():
    worker, seen = WorkerThread("test"), []
    for number in range(20):
        worker.post(lambda number=number: seen.append((number, threading.current_thread().name)))
    worker.drain()
    assert seen == [(number, "test") for number in range(20)]
    worker.close()


def test_error_is_raised_by_every_later_call_and_nothing_else_runs():
    worker, ran = WorkerThread("test"), []

    def fail():
        time.sleep(0.05)
        raise ValueError("broken")

    worker.post(fail)
    worker.post(lambda: ran.append(1))
    for call in (worker.drain, worker.check, lambda: worker.post(lambda: None), lambda: worker.wait_for(lambda: False)):
        with pytest.raises(ValueError, match="broken"):
            call()
    assert ran == []
    worker.close()


def test_close_waits_for_the_running_job_and_drops_the_rest():
    worker, seen = WorkerThread("test"), []
    started = threading.Event()

    def slow():
        started.set()
        time.sleep(0.1)
        seen.append("slow")

    worker.post(slow)
    worker.post(lambda: seen.append("never"))
    started.wait()
    worker.close()
    worker.close()
    assert seen == ["slow"]
    with pytest.raises(RuntimeError, match="closed"):
        worker.drain()


def test_waiting_for_nothing_is_an_error_not_a_hang():
    with pytest.raises(AssertionError, match="never posted"):
        WorkerThread("test").wait_for(lambda: False)


def test_thread_ends_with_its_owner():
    worker = WorkerThread("test-owner")
    worker.post(lambda: None)
    worker.drain()
    thread = next(t for t in threading.enumerate() if t.name == "test-owner")
    gone = weakref.ref(worker)
    del worker
    gc.collect()
    thread.join(5)
    assert gone() is None
    assert not thread.is_alive()


def test_interpreter_exits_with_an_unclosed_worker():
    code = (
        "import time; from vlmreward.wrappers.worker_thread import WorkerThread; w = WorkerThread('t'); "
        "w.post(lambda: time.sleep(0.2)); [w.post(lambda: time.sleep(100)) for _ in range(3)]"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=20, check=False)
    assert (done.returncode, done.stderr) == (0, "")
