"""Every error is ours, names the thing, and says what to do."""

import copy
import errno
import inspect
import pickle
import threading

import pytest

from mcast_fast import Group, cluster, doctor, errors
from mcast_fast.errors import REMEDIES, SendError, SocketError, explain, os_text, remedy, socket_error

OURS = [one for _, one in inspect.getmembers(errors, inspect.isclass) if issubclass(one, Exception)]
BUILT_IN = {
    "GroupError": ValueError,
    "InterfaceError": ValueError,
    "ArgumentError": ValueError,
    "CaptureError": ValueError,
    "ClosedError": ValueError,
    "FileError": OSError,
    "FeatureError": NotImplementedError,
    "SocketError": OSError,
    "SendError": OSError,
}


def test_every_error_can_be_caught_as_one_of_ours():
    raised = [one for one in OURS if not issubclass(one, Warning)]
    assert {one.__name__ for one in raised} == {"MulticastError", *BUILT_IN}
    assert all(issubclass(one, errors.MulticastError) for one in raised)


@pytest.mark.parametrize(("name", "base"), BUILT_IN.items())
def test_every_error_is_the_built_in_that_a_user_of_sockets_expects(name, base):
    assert issubclass(getattr(errors, name), base)


def test_every_error_is_public_and_documented():
    for one in OURS:
        assert getattr(errors, one.__name__) is one
        assert one.__doc__


def test_the_warning_is_a_user_warning():
    assert issubclass(errors.MulticastWarning, UserWarning)
    assert not issubclass(errors.MulticastWarning, errors.MulticastError)


OPERATIONS = {
    "",
    "open",
    "bind",
    "buffer",
    "join",
    "leave",
    "filter",
    "receive",
    "send",
    "ring",
    "read",
    "write",
    "metrics",
}


@pytest.mark.parametrize(("operation", "name", "system"), REMEDIES)
def test_a_remedy_belongs_to_an_operation_an_errno_and_a_system(operation, name, system):
    assert operation in OPERATIONS
    assert system in ("", "linux", "darwin", "win32")
    if name.startswith("WSA"):  # numbers of Windows, which other systems do not name
        assert system == "win32"
        return
    assert remedy(operation, getattr(errno, name), system) == REMEDIES[operation, name, system]


def test_what_is_said_of_this_system_goes_before_what_is_said_of_all():
    assert "ss -ulpn" in remedy("bind", errno.EADDRINUSE, "linux")
    assert "ss -ulpn" not in remedy("bind", errno.EADDRINUSE, "darwin")
    assert "reuse" in remedy("bind", errno.EADDRINUSE, "darwin")
    assert "sysctl" not in remedy("join", errno.ENOBUFS, "win32")


def test_an_operation_without_a_remedy_of_its_own_gets_the_general_one():
    assert "ulimit -n" in remedy("bind", errno.EMFILE)
    assert "ulimit -n" in remedy("no such operation", errno.EMFILE)


@pytest.mark.parametrize("number", [0, -1, 99_999, errno.EXDEV])
def test_what_has_no_remedy_is_told_in_the_systems_words(number):
    assert remedy("join", number) == ""
    assert explain("join", "239.1.1.1", number) == f"join 239.1.1.1: {errors.os_words(number)} ({number})"


def test_the_systems_words_come_with_their_number():
    assert os_text(errno.ENOBUFS) == f"{errors.os_words(errno.ENOBUFS)} ({errno.ENOBUFS})"


@pytest.mark.needs("answers of Linux")
def test_an_explanation_says_what_was_asked_what_came_and_what_to_do():
    text = explain("join", "239.1.1.1 on eth0", errno.ENOBUFS)
    asked, _, rest = text.partition(": ")
    came, _, advice = rest.partition("; ")
    assert (asked, came) == ("join 239.1.1.1 on eth0", os_text(errno.ENOBUFS))
    assert "net.ipv4.igmp_max_memberships" in advice


def test_a_socket_error_keeps_number_and_operation_and_shows_its_message():
    error = socket_error("bind", "port 5000 on eth0", OSError(errno.EADDRINUSE, "whatever"))
    assert (error.errno, error.operation) == (errno.EADDRINUSE, "bind")
    assert str(error) == explain("bind", "port 5000 on eth0", errno.EADDRINUSE)


def test_an_os_error_without_a_number_becomes_ours_too():
    assert socket_error("bind", "port 5000", OSError("no number")).errno == 0


@pytest.mark.parametrize("copied", [copy.copy, lambda error: pickle.loads(pickle.dumps(error))])
@pytest.mark.parametrize("error", [SocketError(22, "text", "join"), SendError(90, "text", 7)])
def test_an_error_survives_a_copy_and_another_process(error, copied):
    again = copied(error)
    assert type(again) is type(error)
    assert (again.errno, str(again), again.operation) == (error.errno, str(error), error.operation)
    assert getattr(again, "sent", None) == getattr(error, "sent", None)


def test_warnings_are_hidden_in_their_own_thread_alone():
    """A doctor in a thread hides its own, and not those of the program."""
    is_hidden = threading.Event()

    def warn() -> None:
        is_hidden.wait()
        errors.warn("of another thread")

    def examine() -> None:
        with errors.unwarned():
            is_hidden.set()
            errors.warn("hidden")
            other.join()
        errors.warn("behind it")

    other = threading.Thread(target=warn)
    other.start()  # before, for some interpreters pass the context on
    with pytest.warns(errors.MulticastWarning) as caught:
        examine()
    assert [str(one.message) for one in caught] == ["of another thread", "behind it"]


PLAN = '[heartbeat]\ngroup = "239.9.9.9:9000"\n[hosts.a]\n[[groups]]\ngroup = "{}"\n'


def _no_port(asked, group):
    if asked == "plan":
        cluster.Plan.parse(PLAN.format(group))
    elif asked == "doctor":
        doctor.examine(group, seconds=0)
    else:
        doctor.probe(group)


@pytest.mark.parametrize("asked", ["plan", "doctor", "probe"])
@pytest.mark.parametrize(
    ("group", "written"),
    [("239.1.1.1%lo", "239.1.1.1%lo:5000"), ("ff15::5", "[ff15::5]:5000"), ("ff15::5%lo", "[ff15::5%lo]:5000")],
)
def test_a_group_that_lacks_its_port_is_shown_with_one(asked, group, written):
    """As it can be written: an IPv6 group needs brackets."""
    with pytest.raises(errors.ArgumentError) as caught:
        _no_port(asked, group)
    assert written in str(caught.value)
    assert Group.parse(written).port == 5000
