"""The layers themselves: what is offered, demanded and in force; standbys used once; what a jail can read."""

from __future__ import annotations

import asyncio
import errno
import itertools
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from app.adapters import jail_probe
from app.domain.errors import WorkerLost
from app.evaluator.clips.catalogue import SuiteCatalogue
from app.evaluator.clips.manifest import locate
from app.sandbox import isolation, landlock, offer, processes, root, scratch, seccomp, syscall_numbers, syscalls
from app.sandbox import supervisor as supervisors
from app.sandbox.request import SandboxLost
from app.sandbox.supervisor import Supervisor
from tests.sandbox.jails import ENCODER, Lab, in_encode

REPO = Path(__file__).resolve().parents[2]
EVERYWHERE = {"single_use_process", "parent_death", "rlimits", "no_capabilities", "no_new_privs"}

STATUS = """
status = dict(line.split(':', 1) for line in open('/proc/self/status'))
names = ('NoNewPrivs', 'Seccomp', 'CapPrm', 'CapEff', 'CapInh', 'CapAmb', 'Groups', 'Uid')
import ctypes, json
told = {name: status[name].split() for name in names}
return json.dumps({**told, 'dumpable': ctypes.CDLL(None).prctl(3, 0, 0, 0, 0)}).encode()
"""


def test_the_kernel_confirms_what_is_said(each_lab: Lab) -> None:
    told = json.loads(each_lab.encode(in_encode(STATUS)).bitstream)
    layers = set(each_lab.supervisor.layers)
    assert layers >= EVERYWHERE
    assert told["NoNewPrivs"] == ["1"]
    assert told["dumpable"] == (0 if "undumpable" in layers else 1)
    assert ("undumpable" in layers) == ("scratch_tmpfs" in layers or "landlock" not in layers)
    assert told["Seccomp"] == (["2"] if "seccomp" in layers else ["0"])
    assert all(int(told[name][0], 16) == 0 for name in ("CapPrm", "CapEff", "CapInh", "CapAmb"))
    if "own_uid" in layers:
        assert len(set(told["Uid"])) == 1 and int(told["Uid"][0]) >= 0x70000000 and told["Groups"] == []


def test_every_jail_is_used_once_and_has_a_uid_of_its_own(lab: Lab) -> None:
    """Standbys wait before their call; none serves two."""
    look = in_encode(
        "import os, builtins\nheld = hasattr(builtins, 'mark'); builtins.mark = 1\n"
        "return repr((held, os.getuid())).encode()"
    )
    seen = [lab.encode(look).bitstream for _ in range(5)]
    assert all(one.startswith(b"(False") for one in seen)
    if "own_uid" in lab.supervisor.layers:
        assert len(set(seen)) == 5


def test_no_two_zygotes_of_a_machine_give_the_same_uid() -> None:
    """Whatever numbers they have; the kernel's are below 2**22."""
    ends = [(isolation.uid_of(pid, 0), isolation.uid_of(pid, 63)) for pid in (1, 2, 16385, 2**22 - 1)]
    assert all(last - first == 63 for first, last in ends)
    assert all(one[1] < next_one[0] for one, next_one in itertools.pairwise(ends))
    assert ends[-1][1] < 2**31


def test_a_jails_number_is_found_where_the_kernel_does_not_tell_it(each_lab: Lab) -> None:
    link = each_lab.supervisor._warm()
    made = each_lab.supervisor._order(link)
    try:
        made.await_forked()
        told = processes.pid_of(made.pidfd)
        assert made.pid == told is not None
        depth = int("pid_namespace" in link.layers)
        inside = processes._numbers_of(told)[depth]
        assert processes.pid_below(link.pid, inside, depth=depth) == told
        assert made._looked_up(inside) == told
        assert processes.pid_below(link.pid, 2**22, depth=depth) is None
    finally:
        made.discard()


CLOSE = """
import os
from app.sandbox import processes
os.closerange = None
for number in (5, 100, 900): os.dup2(1, number)
processes.close_from(3)
held = []
for number in range(1000):
    try: held.append(os.fstat(number) and number)
    except OSError: pass
print(held)
"""


def test_descriptors_are_closed_by_their_list() -> None:
    done = subprocess.run([sys.executable, "-c", CLOSE], capture_output=True, text=True, cwd=REPO, check=True)
    assert done.stdout == "[0, 1, 2]\n"


def test_a_zygote_is_replaced_after_many_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisors, "_CALLS_A_ZYGOTE", 3)
    supervisor = Supervisor()
    try:
        supervisor.warm()
        first = supervisor.pid
        lab = Lab(supervisor)
        for _ in range(3):
            lab.encode(ENCODER)
            assert supervisor.pid == first
        supervisor.rest()
        assert supervisor.pid != first
        assert lab.encode(ENCODER).bitstream
    finally:
        supervisor.close()


def test_below_the_minimum_nothing_runs() -> None:
    supervisor = Supervisor(without=("seccomp",), minimum=offer.DEFAULT_MINIMUM)
    try:
        with pytest.raises(SandboxLost, match="below the declared minimum: seccomp"):
            supervisor.warm()
    finally:
        supervisor.close()


def test_a_minimum_is_parts_that_each_need_one_of_several() -> None:
    assert offer.missing(offer.DEFAULT_MINIMUM, ["seccomp", "landlock"]) == ()
    assert offer.missing(offer.DEFAULT_MINIMUM, ["seccomp", "mount_namespace"]) == ()
    assert offer.missing(offer.DEFAULT_MINIMUM, ["seccomp"]) == ("landlock or mount_namespace",)
    assert offer.missing("none", []) == ()
    with pytest.raises(ValueError, match="no layer 'sealing'"):
        offer.missing("sealing", [])


# The first process of a PID namespace cannot kill itself, so it ends at once.
KILLED_ONCE = """
import os, sys
from app.sandbox import offer
marks = sys.argv[1]
def killed_once(name, trial):
    def tried(*given):
        mark = os.path.join(marks, name)
        if not os.path.exists(mark):
            os.mkdir(mark)
            os._exit(9)
        trial(*given)
    return tried
if len(sys.argv) > 2:
    offer._TRIALS = {name: killed_once(name, trial) for name, trial in offer._TRIALS.items()}
offer.main()
"""


def test_a_trial_that_is_killed_does_not_weaken_the_jail(tmp_path: Path) -> None:
    def offered(*options: str) -> str:
        command = [sys.executable, "-c", KILLED_ONCE, str(tmp_path), *options]
        return subprocess.run(command, cwd=REPO, capture_output=True, text=True, check=True).stdout

    assert offered("killed") == offered()
    assert list(tmp_path.iterdir()), "no trial was killed"


@pytest.mark.parametrize("without", [(), offer.SEPARATED])
def test_scratches_of_a_service_that_is_gone_are_removed(tmp_path: Path, without: tuple[str, ...]) -> None:
    left = tmp_path / "bitlane-jail-1-1-left"
    left.mkdir()
    (left / "file").touch()
    supervisor = Supervisor(without=without, scratch_root=str(tmp_path))
    try:
        supervisor.warm()
        assert not left.exists()
    finally:
        supervisor.close()


def test_a_layer_that_fails_in_a_jail_breaks_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It is never skipped in silence. Here the scratch is taken away."""
    supervisor = Supervisor(without=offer.SEPARATED)
    try:
        supervisor._warm()
        monkeypatch.setattr(scratch.tempfile, "mkdtemp", lambda *_: str(tmp_path / "gone"))
        with pytest.raises(WorkerLost, match="No such file"):
            Lab(supervisor).encode(ENCODER)
    finally:
        supervisor.close()


WALK = """
import hashlib, json, os
found = {}
for folder, folders, names in os.walk('/'):
    folders[:] = [name for name in folders if os.path.join(folder, name) not in ('/proc', '/sys')]
    for name in names:
        path = os.path.join(folder, name)
        try:
            size = os.stat(path).st_size
            if os.path.isfile(path) and size in SIZES:
                with open(path, 'rb') as file:
                    found[path] = hashlib.sha256(file.read()).hexdigest()
        except OSError:
            continue
return json.dumps(found).encode()
"""


def test_no_file_that_a_jail_can_read_holds_a_clip(each_lab: Lab, tmp_path: Path) -> None:
    """Neither the files that the suites are made of nor their raw frames, by size and hash."""
    hashes, sizes = set(), set()
    for suite in SuiteCatalogue(tmp_path).suites():
        for clip in suite.clips:
            hashes |= {clip.file_sha256, clip.sha256}
            sizes |= {locate(tmp_path, suite.name, clip).stat().st_size, clip.bytes_per_frame * clip.frames}
    assert hashes
    found = json.loads(each_lab.encode(in_encode(WALK.replace("SIZES", repr(sizes))), wall_s=60).bitstream)
    assert not {path for path, digest in found.items() if digest in hashes}


def test_packages_are_shown_by_name(each_lab: Lab) -> None:
    """Not what lies beside them: our code, test tools, and whatever carries media."""
    body = """
    import importlib.util
    seen = []
    for name in ('app.main', 'tests.sandbox.jails', 'skvideo.io', 'fastapi', 'pytest', 'bitlane'):
        try:
            __import__(name)
            seen.append(name)
        except (ImportError, OSError):
            pass
    return repr(seen).encode()
    """
    assert each_lab.encode(in_encode(body)).bitstream == b"[]"


REACHES_OTHERS = """
ptrace process_vm_readv process_vm_writev pidfd_open pidfd_getfd pidfd_send_signal kcmp execve execveat fork
vfork socket socketpair connect bind listen accept mount umount2 pivot_root chroot unshare setns bpf
io_uring_setup userfaultfd perf_event_open keyctl add_key request_key memfd_create shmget msgget semget
mq_open chmod fchmod fchmodat chown fchown utimensat setxattr mknod mknodat splice vmsplice tee mincore
cachestat swapon reboot setuid setgid capset seccomp tkill setpriority sched_setaffinity sched_setscheduler
personality modify_ldt
"""


def test_the_list_of_calls_holds_nothing_that_reaches_others() -> None:
    refused = set(REACHES_OTHERS.split())
    assert not refused & (set(syscall_numbers.ALLOWED) - set(syscall_numbers.FILTERED))


@pytest.mark.parametrize("index", [0, 1])
def test_numbers_of_calls_are_unique(index: int) -> None:
    tables = (syscall_numbers.ALLOWED, syscall_numbers.FILTERED, syscall_numbers.CUDA)
    numbers = [numbers[index] for table in tables for numbers in table.values() if numbers[index] is not None]
    assert len(numbers) == len(set(numbers))


def test_numbers_of_calls_are_the_kernels() -> None:
    header = Path("/usr/include/asm-generic/unistd.h")
    if not header.exists():
        pytest.skip("the kernel's headers are not installed (Debian: linux-libc-dev)")
    stated = dict(re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)", header.read_text()))
    tables = {**syscall_numbers.ALLOWED, **syscall_numbers.FILTERED, **syscall_numbers.CUDA}
    for name, (_, number) in tables.items():
        if number is not None and name in stated:
            assert int(stated[name]) == number, name


def test_a_filter_fits_the_kernels_bound() -> None:
    for cuda in (False, True):
        assert len(seccomp.Filter(cuda=cuda)._template) // 8 <= 4096


def test_landlock_leaves_out_what_is_not_there_and_leaves_nothing_open(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if not syscalls.landlock_abi():
        pytest.skip("the kernel has no Landlock")
    gone, before = str(tmp_path / "gone"), os.listdir("/proc/self/fd")
    rules = landlock.Rules(read=("/usr", gone), write=(gone,), devices=())
    os.close(rules.ruleset(read=(gone, str(tmp_path)), write=(gone,)))
    allow, allowed = syscalls.landlock_allow, []

    def fail_at_last(fd: int, rule: syscalls.PathRule) -> None:
        allow(fd, rule)
        allowed.append(rule)
        if len(allowed) == 2:
            raise OSError(errno.EBADFD, "no such rule")

    monkeypatch.setattr(syscalls, "landlock_allow", fail_at_last)
    with pytest.raises(OSError, match="no such rule"):
        rules.ruleset(read=(str(tmp_path),))
    rules.close()
    assert os.listdir("/proc/self/fd") == before


def test_lanes_of_both_kinds_have_in_common_what_each_offers(monkeypatch: pytest.MonkeyPatch) -> None:
    offers = {False: ("mount_namespace", "undumpable", "seccomp"), True: ("undumpable", "landlock", "seccomp")}

    async def offered(*, cuda: bool) -> tuple[str, ...]:
        return offers[cuda]

    monkeypatch.setattr(jail_probe, "_offered", offered)
    both = asyncio.run(jail_probe.probe(offer.DEFAULT_MINIMUM, cuda={False, True}))
    assert (both.layers, both.lacking) == (("undumpable", "seccomp"), ())
    assert asyncio.run(jail_probe.probe("landlock", cuda={False, True})).lacking == ("landlock",)
    assert asyncio.run(jail_probe.probe("landlock", cuda={True})).lacking == ()


SHOWN = """
import os
from app.sandbox import isolation, root
isolation.enter(NAMES)
if os.fork() == 0:
    root.enter(root.view(cuda=True))
    for line in open("/proc/self/mountinfo"):
        place = line.split()[4]
        if not place.startswith(("/dev", "/proc")) and not os.statvfs(place).f_flag & os.ST_RDONLY: print(place)
    os._exit(0)
_, status = os.wait()
print("done" if status == 0 else "failed")
"""


def test_nothing_in_a_minimal_root_can_be_written_also_below_other_mounts(lab: Lab) -> None:
    """/sys, which CUDA lanes show, has control groups and more mounted in it."""
    if "minimal_root" not in lab.supervisor.layers:
        pytest.skip("there is no minimal root here")
    names = [name for name in isolation.NAMESPACES if name in lab.supervisor.layers]
    code = SHOWN.replace("NAMES", repr(names))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPO, check=True)
    assert done.stdout.split() == ["done"], done.stderr


OFFERED = """
import sys
from app.sandbox import offer, root
root._CUDA_DEVICES = (sys.argv[1],)
print(*offer.layers(cuda=True))
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a jail a uid of its own")
def test_no_uid_of_its_own_where_that_could_not_open_the_device(tmp_path: Path) -> None:
    device = tmp_path / "device"
    device.touch()
    found = []
    for mode in (0o600, 0o666):
        device.chmod(mode)
        command = [sys.executable, "-c", OFFERED, str(device)]
        done = subprocess.run(command, capture_output=True, text=True, cwd=REPO, check=True)
        found.append(set(done.stdout.split()))
    assert found[1] - found[0] == {"own_uid"}


AFFINITY = """
import os, sys
from app.sandbox import seccomp, syscalls
parent = os.getppid()
syscalls.set_no_new_privs()
seccomp.Filter(cuda=sys.argv[1] == "cuda").install()
for pid in (0, os.getpid(), parent):
    try: os.sched_setaffinity(pid, os.sched_getaffinity(0)); print("done")
    except PermissionError: print("refused")
"""


@pytest.mark.parametrize(("kind", "told"), [("cuda", "done done refused"), ("cpu", "refused refused refused")])
def test_nobody_places_other_processes(kind: str, told: str) -> None:
    command = [sys.executable, "-c", AFFINITY, kind]
    done = subprocess.run(command, capture_output=True, text=True, cwd=REPO, check=True)
    assert done.stdout.split() == told.split()


def test_cuda_finds_its_driver_where_the_machines_proc_is_in_sight(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(root.os.path, "exists", lambda path: True)
    assert {"/proc/driver/nvidia", "/proc/devices"} <= set(root.view(cuda=True).readable())
    assert not {"/proc/driver/nvidia", "/proc/devices"} & set(root.view(cuda=False).readable())


def test_what_is_shown_is_there() -> None:
    shown = root.view(cuda=False)
    assert all(Path(path).exists() for path in (*shown.folders, *shown.packages, *shown.files, *shown.devices))
    assert not [path for path in shown.readable() if path.endswith(("site-packages", "dist-packages"))]
