/* Preloaded into a process and all that it starts: tells of every socket that leads out of it, and refuses it. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

static void tell(const char *format, ...) {
  char line[512];
  int length = snprintf(line, sizeof line, "%d ", (int)getpid());
  va_list given;
  va_start(given, format);
  length += vsnprintf(line + length, sizeof line - length - 1, format, given);
  va_end(given);
  if (length > (int)sizeof line - 2) length = sizeof line - 2;
  line[length++] = '\n';
  const char *path = getenv("SOCKETS_TOLD");
  int file = path ? open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600) : -1;
  if (file >= 0 && write(file, line, length) < 0) abort();
  if (file >= 0) close(file);
}

__attribute__((constructor)) static void watched(void) { tell("watched"); }

int socket(int domain, int type, int protocol) {
  if (domain == AF_UNIX || domain == AF_NETLINK) return (int)syscall(SYS_socket, domain, type, protocol);
  tell("socket of family %d", domain);
  errno = EACCES;
  return -1;
}

int getaddrinfo(const char *node, const char *service, const struct addrinfo *hints, struct addrinfo **found) {
  tell("lookup of %s", node ? node : "this machine");
  return EAI_FAIL;
}

struct hostent *gethostbyname(const char *node) {
  tell("lookup of %s", node);
  h_errno = NO_RECOVERY;
  return NULL;
}
