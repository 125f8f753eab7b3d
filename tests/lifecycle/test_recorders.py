"""Recorders at every moment of their lives: close(), interrupts, forked children."""

import itertools
import threading
import time

import pytest

import mcast_fast as mcast
from tests.conftest import free_port, loopback
from tests.lifecycle.test_files import SIZE, numbers, numbers_in, run

FORK_RECORDER = """
import os, sys, threading
import mcast_fast as mcast
from tests.lifecycle.test_files import numbers_in

path, group, running = sys.argv[1:]
rx = mcast.Receiver(group)
tx = mcast.Sender(group, ttl=0)
recorder = mcast.files.Recorder(rx, path)
thread = threading.Thread(target=recorder.run)
if running == "running":
    thread.start()
tx.send_batch([number.to_bytes(400, "big") for number in range(50)])
child = os.fork()
if not child:
    for call in (recorder.run, recorder.stop, recorder.flush, recorder.rotate, lambda: recorder.result):
        try:
            call()
        except mcast.ClosedError as error:
            assert "recorder was opened in another process" in str(error), error
        else:
            os._exit(3)
    recorder.close()
    os._exit(0)  # what becomes of the receiver is tested elsewhere
_, status = os.waitpid(child, 0)
assert status == 0, status
if running != "running":
    thread.start()
recorder.stop()
thread.join(20)
assert numbers_in(path) == list(range(50)), numbers_in(path)
print("whole")
"""


@pytest.mark.long
@pytest.mark.needs("signals to processes")
@pytest.mark.parametrize("running", ["running", "opened"])
@pytest.mark.parametrize("suffix", ["pcapng", "pcapng.gz"])
def test_a_forked_child_leaves_a_recording_alone(backend, tmp_path, suffix, running):
    group = f"239.1.1.9%{loopback()}:{free_port()}"
    ended = run(FORK_RECORDER, backend, str(tmp_path / f"feed.{suffix}"), group, running)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "whole\n", "")


# ---- recorders ----


@pytest.fixture
def ends(backend):
    group = f"239.1.1.8%{loopback()}:{free_port()}"
    with mcast.Receiver(group) as rx, mcast.Sender(group, ttl=0) as tx:
        yield rx, tx


def test_a_recorder_that_never_ran_can_be_closed(ends, tmp_path, no_leak):
    with mcast.files.Recorder(ends[0], tmp_path / "feed.pcapng") as recorder:
        pass
    assert (numbers_in(tmp_path / "feed.pcapng"), recorder.result.reason) == ([], "closed")
    with pytest.raises(mcast.ClosedError, match="recorder is closed"):
        recorder.run()
    recorder.close()


def test_close_ends_a_recording_of_another_thread(ends, tmp_path, no_leak):
    rx, tx = ends
    recorder = mcast.files.Recorder(rx, tmp_path / "feed.pcapng")
    tx.send_batch([number.to_bytes(SIZE, "big") for number in range(50)])
    results = []
    thread = threading.Thread(target=lambda: results.append(recorder.run()))
    thread.start()
    while recorder.result.written < 50:
        time.sleep(0.001)  # there is no event for it
    recorder.close()
    thread.join(20)
    assert (results[0].reason, results[0].written) == ("closed", 50)
    assert numbers_in(tmp_path / "feed.pcapng") == list(range(50))


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("turn", range(4))
def test_what_an_interrupt_keeps_from_being_recorded_is_given_back(ends, tmp_path, monkeypatch, turn, after):
    """Received is recorded, or left over in the receiver."""
    rx, tx = ends
    tx.send_batch([number.to_bytes(SIZE, "big") for number in range(200)])
    written = itertools.count()
    write = mcast.files.Writer.write

    def interrupted(writer, batch):
        come = next(written) == turn
        if after or not come:
            write(writer, batch)
        if come:
            raise KeyboardInterrupt
        return len(batch)

    monkeypatch.setattr(mcast.files.Writer, "write", interrupted)
    rotate = mcast.files.Rotation(packets=50)
    recorder = mcast.files.Recorder(rx, tmp_path / "feed.pcapng", rotate=rotate)
    with pytest.raises(KeyboardInterrupt):
        recorder.run()
    monkeypatch.undo()
    assert recorder.result.reason == "error"
    recorded = [number for path in sorted(tmp_path.iterdir()) for number in numbers_in(path)]
    assert recorded == list(range(50 * (turn + after)))
    left = []
    while len(left) < 200 - len(recorded):
        left += numbers(rx.recv_batch(timeout=10))
    assert recorded + left == list(range(200))
