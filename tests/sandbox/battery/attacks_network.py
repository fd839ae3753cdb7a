"""Sockets, names, and the queues and segments that processes share."""

from __future__ import annotations

from tests.sandbox.battery.base import Attack


def _reaching(name: str, goal: str, code: str, after: str) -> Attack:
    return Attack(name=name, group="network", goal=goal, code=code, after=after)


def _probe(name: str, goal: str, code: str, wants: str | None = None) -> Attack:
    return Attack(name=name, group="network", goal=goal, code=code, wants=wants)


def _socket(name: str, goal: str, arguments: str) -> Attack:
    code = f'def attack(ctx): return f"descriptor {{socket.socket({arguments}).fileno()}}"'
    return _probe(f"socket-{name}", goal, code)


_MADE = (
    _socket("tcp", "make a TCP socket", "socket.AF_INET, socket.SOCK_STREAM"),
    _socket("udp", "make a UDP socket", "socket.AF_INET, socket.SOCK_DGRAM"),
    _socket("tcp6", "make a TCP socket for IPv6", "socket.AF_INET6, socket.SOCK_STREAM"),
    _socket("mptcp", "make a multipath TCP socket", "socket.AF_INET, socket.SOCK_STREAM, 262"),
    _socket("unix", "make a UNIX socket", "socket.AF_UNIX, socket.SOCK_STREAM"),
    _socket("raw", "forge and overhear IP packets", "socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP"),
    _socket("packet", "overhear the network card", "socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)"),
    _socket("netlink", "talk to the kernel about networks", "socket.AF_NETLINK, socket.SOCK_RAW, 0"),
    _socket("netfilter", "talk to the kernel about firewalls", "socket.AF_NETLINK, socket.SOCK_RAW, 12"),
    _socket("uevent", "be told of the kernel's devices", "socket.AF_NETLINK, socket.SOCK_DGRAM, 15"),
    _socket("audit", "talk to the kernel's audit", "socket.AF_NETLINK, socket.SOCK_RAW, 9"),
    _socket("vsock", "talk to the hypervisor", "socket.AF_VSOCK, socket.SOCK_STREAM"),
    _socket("alg", "use the kernel's ciphers", "socket.AF_ALG, socket.SOCK_SEQPACKET"),
    _socket("bluetooth", "talk by radio", "31, socket.SOCK_RAW, 1"),
    _probe("socketpair", "make a pair of sockets", "def attack(ctx): return str(socket.socketpair())"),
)

_CONNECT = "def attack(ctx): socket.create_connection(({host}, {port}), timeout=1)"

_REACHED = (
    _reaching("connect-tcp", "connect to a server on this machine",
              _CONNECT.format(host='"127.0.0.1"', port="@tcp_port@"), "tcp"),
    _reaching("connect-tcp6", "connect to a server on this machine by IPv6",
              _CONNECT.format(host='"::1"', port="@tcp_six_port@"), "tcp_six"),
    _reaching(
        "connect-fastopen",
        "connect with the first packet, without a call to connect",
        """
        def attack(ctx):
            made = socket.socket()
            made.sendto(b"x", 0x20000000, ("127.0.0.1", @tcp_port@))
        """,
        "tcp",
    ),
    _reaching(
        "send-udp",
        "send a packet to a server on this machine, such as a name server",
        """
        def attack(ctx):
            question = struct.pack(">6H", 1, 256, 1, 0, 0, 0) + b"\\6secret\\4name\\0\\0\\1\\0\\1"
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(question, ("127.0.0.1", @udp_port@))
        """,
        "udp",
    ),
    _reaching("connect-unix", "connect to a server by its path",
              "def attack(ctx): socket.socket(socket.AF_UNIX).connect(@unix_path@)", "unix"),
    _reaching("connect-abstract", "connect to a server by its abstract name",
              "def attack(ctx): socket.socket(socket.AF_UNIX).connect(@abstract_name@)", "abstract"),
    _reaching(
        "connect-by-job-socket",
        "turn the job's own socket to another server",
        """
        def attack(ctx):
            os.dup2(socket.socket(socket.AF_UNIX).detach(), 3)
            socket.socket(fileno=3).connect(@unix_path@)
        """,
        "unix",
    ),
    _reaching(
        "bind-unix",
        "offer a service to other programs",
        "def attack(ctx): socket.socket(socket.AF_UNIX).bind(@target@ + '/new')",
        "target",
    ),
    _probe(
        "bind-tcp",
        "wait for connections from outside",
        """
        def attack(ctx):
            made = socket.socket()
            made.bind(("0.0.0.0", 0))
            made.listen()
            return str(made.getsockname())
        """,
    ),
    _probe("resolve-name", "resolve a name", 'def attack(ctx): return str(socket.getaddrinfo("localhost", 80)[0][4])'),
    _probe("list-cards", "list the machine's network cards",
           "def attack(ctx): return ' '.join(name for _, name in socket.if_nameindex())"),
    _probe("list-connections", "see who is connected to whom",
           'def attack(ctx): return open("/proc/net/tcp").read()', "tcp_port_hex"),
    _probe("list-unix-sockets", "see the UNIX sockets of all programs",
           'def attack(ctx): return open("/proc/net/unix").read()', "unix_path"),
)

_SHARED = (
    _probe(
        "shm-read",
        "read another program's shared segment",
        """
        def attack(ctx):
            _libc.shmat.restype = ctypes.c_void_p
            address = _libc.shmat(@shared_id@, None, 0)
            if address == ctypes.c_void_p(-1).value:
                raise OSError(ctypes.get_errno(), "shmat")
            return ctypes.string_at(address, 64)
        """,
        "shared_content",
    ),
    _reaching(
        "shm-write",
        "change another program's shared segment",
        """
        def attack(ctx):
            _libc.shmat.restype = ctypes.c_void_p
            address = _libc.shmat(syscall("shmget", @shared_key@, 16, 0), None, 0)
            if address == ctypes.c_void_p(-1).value:
                raise OSError(ctypes.get_errno(), "shmat")
            ctypes.memset(address, 120, 4)
        """,
        "ipc",
    ),
    _probe(
        "message-queue-read",
        "take a message that is for another program",
        """
        def attack(ctx):
            held = ctypes.create_string_buffer(80)
            size = syscall("msgrcv", @messages_id@, held, 64, 0, 0o4000)
            return held.raw[8 : 8 + size].decode()
        """,
        "messages_content",
    ),
    _probe("message-queue-make", "make a queue that outlives the call", """
        def attack(ctx):
            number = syscall("msgget", 0, 0o1600)
            _libc.msgctl(number, 0, None)
            return f"queue {number}"
        """),
    _reaching("semaphore", "take another program's semaphore",
              'def attack(ctx): syscall("semop", @semaphore_id@, struct.pack("HhH", 0, -1, 0o4000), 1)', "ipc"),
    _probe(
        "posix-queue-read",
        "take a message from another program's POSIX queue",
        """
        def attack(ctx):
            fd = syscall("mq_open", @queue_name@.encode(), os.O_RDWR | os.O_NONBLOCK, 0, 0)
            held = ctypes.create_string_buffer(64)
            size = syscall("mq_timedreceive", fd, held, 64, 0, 0)
            return held.raw[:size].decode()
        """,
        "queue_content",
    ),
    _probe("list-shm", "see other programs' shared segments",
           'def attack(ctx): return open("/proc/sysvipc/shm").read()', "shared_id"),
)

ATTACKS = (*_MADE, *_REACHED, *_SHARED)
