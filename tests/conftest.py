"""What holds for every test: one thread, no network, no state left behind."""

import ipaddress
import os
import socket

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"  # for processes that tests start; before torch is imported

import pytest
import torch
from browsing import chromium, opened  # noqa: F401  (fixtures)
from hypothesis import settings

torch.set_num_threads(1)
settings.register_profile("unistep", deadline=None, max_examples=20, derandomize=True, database=None)
settings.load_profile("unistep")


def outside(host: object) -> bool:
    """True for anything but this machine."""
    name = host.decode() if isinstance(host, bytes) else str(host or "localhost")
    try:
        return not ipaddress.ip_address(name.partition("%")[0]).is_loopback
    except ValueError:
        return name not in ("localhost", "ip6-localhost", socket.gethostname())


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections and look-ups that leave this machine fail with the address in the message."""

    def guard(name: str) -> None:
        real = getattr(socket.socket, name)

        def call(self: socket.socket, *args: object) -> object:
            address = args[-1] if name == "sendto" else args[0]
            if self.family != socket.AF_UNIX and outside(address[0]):
                raise PermissionError(f"a test reached outside: {name} {address}")
            return real(self, *args)

        monkeypatch.setattr(socket.socket, name, call)

    for name in ("connect", "connect_ex", "sendto"):
        guard(name)
    look_up = socket.getaddrinfo

    def getaddrinfo(host: object, *args: object, **more: object) -> object:
        if outside(host):
            raise PermissionError(f"a test reached outside: getaddrinfo {host}")
        return look_up(host, *args, **more)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
