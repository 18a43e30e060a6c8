"""The report's index server: one process per connection, and dictionaries that a manager process shares among them.

It trusts whoever connects (pickle runs code), so it listens on loopback only. State is in memory and nothing is
encrypted: say so wherever its figures stand beside others.
"""

import multiprocessing
import signal
import socket
import sys

from exchanger import MessageExchanger


class SharedTables:
    """What all connection processes see: who is there, who has which file, and what is known of each file."""

    def __init__(self, manager):
        self.peers_info = manager.dict()
        self.file2peers = manager.dict()
        self.files_info = manager.dict()
        # Reading a list of peers and writing it back are two calls; without the lock two peers could lose one of them.
        self.lock = multiprocessing.Lock()

    def join(self, peer, address):
        self.peers_info[peer] = address

    def register(self, peer, name, info):
        self.files_info[name] = info
        with self.lock:
            peers = self.file2peers.get(name, [])
            if peer not in peers:
                self.file2peers[name] = peers + [peer]

    def search(self, text):
        return [name for name in self.file2peers.keys() if text in name]

    def lookup(self, name):
        peers = self.file2peers.get(name, [])
        addresses = self.peers_info.copy()
        return [(peer, addresses[peer]) for peer in peers if peer in addresses]

    def leave(self, peer):
        self.peers_info.pop(peer, None)
        with self.lock:
            for name, peers in self.file2peers.items():
                if peer in peers:
                    rest = [other for other in peers if other != peer]
                    if rest:
                        self.file2peers[name] = rest
                    else:
                        self.file2peers.pop(name)
                        self.files_info.pop(name, None)


def serve(connection, tables):
    """Answers one peer until it exits or its connection breaks."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    exchanger = MessageExchanger(connection)
    peer = None
    try:
        while True:
            verb, *arguments = exchanger.receive()
            if verb == "join":
                peer, address = arguments
                tables.join(peer, address)
                exchanger.send(("joined", peer))
            elif verb == "register":
                name, info = arguments
                tables.register(peer, name, info)
                exchanger.send(("registered", name))
            elif verb == "search":
                exchanger.send(("found", tables.search(arguments[0])))
            elif verb == "lookup":
                exchanger.send(("providers", tables.lookup(arguments[0])))
            elif verb == "exit":
                tables.leave(peer)
                peer = None
                exchanger.send(("bye",))
                return
            else:
                exchanger.send(("error", f"unknown verb {verb!r}"))
    except (EOFError, ConnectionError):
        if peer is not None:
            tables.leave(peer)
    finally:
        exchanger.close()


def main():
    listener = socket.create_server(("127.0.0.1", 0), backlog=64)
    with multiprocessing.Manager() as manager:
        tables = SharedTables(manager)
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        print(listener.getsockname()[1], flush=True)
        processes = []
        try:
            while True:
                connection, _ = listener.accept()
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                processes = [process for process in processes if process.is_alive()]
                processes.append(multiprocessing.Process(target=serve, args=(connection, tables), daemon=True))
                processes[-1].start()
                connection.close()
        finally:
            # Before the manager goes: they would miss it.
            for process in processes:
                process.terminate()
                process.join()


if __name__ == "__main__":
    main()
