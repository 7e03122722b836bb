/*
 * Preloaded into a server under test (LD_PRELOAD): makes its fsync and fdatasync as slow as, or fail when, the file
 * named by FAULTY_DISK says: "250" delays each by 250 ms, "eio" fails each with EIO, an empty file does nothing.
 * The file is read at every call, so that a running server's disk can fall ill and recover.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static int sick(void) {
  const char *path = getenv("FAULTY_DISK");
  char text[16] = {0};
  int file = path == NULL ? -1 : open(path, O_RDONLY);
  if (file < 0) return 0;
  ssize_t length = read(file, text, sizeof text - 1);
  close(file);
  if (length <= 0) return 0;
  if (strncmp(text, "eio", 3) == 0) return 1;
  long ms = atol(text);
  struct timespec pause = {ms / 1000, (ms % 1000) * 1000000};
  while (nanosleep(&pause, &pause) != 0 && errno == EINTR) {
  }
  return 0;
}

static int synced(const char *name, int file) {
  if (sick()) {
    errno = EIO;
    return -1;
  }
  int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, name);
  return real(file);
}

int fdatasync(int file) { return synced("fdatasync", file); }
int fsync(int file) { return synced("fsync", file); }
