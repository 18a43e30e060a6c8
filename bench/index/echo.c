// The floor under one request in flight: epoll and OpenSSL, TLS 1.3, AES-128-GCM, one thread; frames with haul's
// header, every request answered at once by an answer of fixed length. Server and client in one program.
//
//   echo server PORT CERT KEY ANSWER_BYTES
//   echo client PORT CONNECTIONS SECONDS REQUEST_BYTES      prints: answers, seconds
//
// Lengths are those of whole frames (u32 length, u8 kind, u32 id, body). Ends when standard input ends (server).

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { HEADER = 9, BUFFER = 4096, EVENTS = 512 };

struct peer {
    SSL *tls;
    int socket;
    int ready; // the handshake is done
    size_t filled;
    unsigned char bytes[BUFFER];
};

static void fail(const char *what) {
    perror(what);
    ERR_print_errors_fp(stderr);
    exit(1);
}

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static SSL_CTX *context(const SSL_METHOD *method) {
    SSL_CTX *tls = SSL_CTX_new(method);
    if (!tls || !SSL_CTX_set_min_proto_version(tls, TLS1_3_VERSION)) fail("TLS");
    if (!SSL_CTX_set_ciphersuites(tls, "TLS_AES_128_GCM_SHA256")) fail("cipher");
    SSL_CTX_set_num_tickets(tls, 0);
    SSL_CTX_set_mode(tls, SSL_MODE_RELEASE_BUFFERS);
    return tls;
}

static struct sockaddr_in place(const char *port) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(port))};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return address;
}

static void prepare(int socket) {
    int on = 1;
    setsockopt(socket, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    fcntl(socket, F_SETFL, O_NONBLOCK);
}

static void drop(struct peer *peer) {
    SSL_free(peer->tls);
    close(peer->socket);
    free(peer);
}

static void send_frame(struct peer *peer, const unsigned char *frame, int bytes) {
    // A small frame always fits into the socket's buffer while one request is in flight.
    if (SSL_write(peer->tls, frame, bytes) != bytes) fail("SSL_write");
}

static void make_frame(unsigned char *frame, int bytes) {
    memset(frame, 0, BUFFER);
    uint32_t length = (uint32_t)bytes - 4;
    memcpy(frame, &length, 4);
}

// Reads what is there; returns the number of whole frames, -1 at the end of the connection.
static int read_frames(struct peer *peer) {
    int frames = 0;
    for (;;) {
        int got = SSL_read(peer->tls, peer->bytes + peer->filled, (int)(BUFFER - peer->filled));
        if (got <= 0) {
            int why = SSL_get_error(peer->tls, got);
            return why == SSL_ERROR_WANT_READ ? frames : -1;
        }
        peer->filled += (size_t)got;
        uint32_t length;
        while (peer->filled >= 4 && (memcpy(&length, peer->bytes, 4), peer->filled >= length + 4)) {
            if (length + 4 > BUFFER) return -1;
            peer->filled -= length + 4;
            memmove(peer->bytes, peer->bytes + length + 4, peer->filled);
            frames++;
        }
    }
}

static void add(int epoll, int socket, void *data) {
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = data};
    if (epoll_ctl(epoll, EPOLL_CTL_ADD, socket, &event)) fail("epoll_ctl");
}

static void serve(char **words) {
    SSL_CTX *tls = context(TLS_server_method());
    if (SSL_CTX_use_certificate_file(tls, words[3], SSL_FILETYPE_PEM) != 1) fail("certificate");
    if (SSL_CTX_use_PrivateKey_file(tls, words[4], SSL_FILETYPE_PEM) != 1) fail("key");
    unsigned char answer[BUFFER];
    int answer_bytes = atoi(words[5]);
    make_frame(answer, answer_bytes);
    int listener = socket(AF_INET, SOCK_STREAM, 0), on = 1, epoll = epoll_create1(0);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    struct sockaddr_in address = place(words[2]);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 1024)) fail("listen");
    fcntl(listener, F_SETFL, O_NONBLOCK);
    static char end;
    add(epoll, listener, NULL);
    add(epoll, 0, &end);
    puts("ready");
    fflush(stdout);
    struct epoll_event events[EVENTS];
    for (;;) {
        int count = epoll_wait(epoll, events, EVENTS, -1);
        for (int i = 0; i < count; i++) {
            struct peer *peer = events[i].data.ptr;
            if ((void *)peer == (void *)&end) return;
            if (!peer) {
                int accepted;
                while ((accepted = accept(listener, NULL, NULL)) >= 0) {
                    prepare(accepted);
                    peer = calloc(1, sizeof *peer);
                    peer->socket = accepted;
                    peer->tls = SSL_new(tls);
                    SSL_set_fd(peer->tls, accepted);
                    SSL_set_accept_state(peer->tls);
                    add(epoll, accepted, peer);
                }
                continue;
            }
            if (!peer->ready) {
                int done = SSL_do_handshake(peer->tls);
                if (done != 1) {
                    if (SSL_get_error(peer->tls, done) != SSL_ERROR_WANT_READ) drop(peer);
                    continue;
                }
                peer->ready = 1;
            }
            int frames = read_frames(peer);
            for (int n = 0; n < frames; n++) send_frame(peer, answer, answer_bytes);
            if (frames < 0) drop(peer);
        }
    }
}

static void ask(char **words) {
    SSL_CTX *tls = context(TLS_client_method());
    int connections = atoi(words[3]), request_bytes = atoi(words[5]), epoll = epoll_create1(0);
    double seconds = atof(words[4]);
    unsigned char request[BUFFER];
    make_frame(request, request_bytes);
    struct peer **peers = calloc((size_t)connections, sizeof *peers);
    for (int n = 0; n < connections; n++) {
        struct peer *peer = peers[n] = calloc(1, sizeof *peer);
        struct sockaddr_in address = place(words[2]);
        peer->socket = socket(AF_INET, SOCK_STREAM, 0);
        if (connect(peer->socket, (struct sockaddr *)&address, sizeof address)) fail("connect");
        peer->tls = SSL_new(tls);
        SSL_set_fd(peer->tls, peer->socket);
        if (SSL_connect(peer->tls) != 1) fail("handshake");
        prepare(peer->socket);
        add(epoll, peer->socket, peer);
    }
    uint64_t answers = 0;
    // The runner reads the server's CPU time when this line comes, so that handshakes do not count.
    puts("connected");
    fflush(stdout);
    double begun = now();
    for (int n = 0; n < connections; n++) send_frame(peers[n], request, request_bytes);
    struct epoll_event events[EVENTS];
    while (now() - begun < seconds) {
        int count = epoll_wait(epoll, events, EVENTS, 100);
        for (int i = 0; i < count; i++) {
            int frames = read_frames(events[i].data.ptr);
            if (frames < 0) fail("the server went away");
            for (int n = 0; n < frames; n++) send_frame(events[i].data.ptr, request, request_bytes);
            answers += (uint64_t)frames;
        }
    }
    printf("%llu %f\n", (unsigned long long)answers, now() - begun);
    fflush(stdout);
    // Until the runner has read the CPU time.
    getchar();
}

int main(int count, char **words) {
    signal(SIGPIPE, SIG_IGN);
    if (count == 6 && !strcmp(words[1], "server")) serve(words);
    else if (count == 6 && !strcmp(words[1], "client")) ask(words);
    else return fputs("see the head of echo.c\n", stderr), 2;
    return 0;
}
