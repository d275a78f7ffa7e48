/*
 * Runs a fuzz target over files and folders of files, without clang: so that the corpora are part of every
 * test run.
 */
#include "tests/fuzz/fuzz.h"

#include <dirent.h>
#include <sys/stat.h>

static size_t replayed;

static int replay_file(const char *path)
{
    FILE *f = fopen(path, "rb");
    struct stat st;
    if (!f || fstat(fileno(f), &st) < 0) {
        perror(path);
        return -1;
    }
    size_t size = (size_t)st.st_size;
    uint8_t *data = malloc(size ? size : 1);
    int r = data && fread(data, 1, size, f) == size ? 0 : -1;
    if (r == 0) {
        printf("%s\n", path);
        fflush(stdout); /* the last line says which input it was */
        LLVMFuzzerTestOneInput(data, size);
        replayed++;
    }
    free(data);
    fclose(f);
    return r;
}

static int replay(const char *path)
{
    DIR *folder = opendir(path);
    struct dirent *entry;
    int r = 0;
    if (!folder)
        return replay_file(path);
    while (r == 0 && (entry = readdir(folder))) {
        char child[4096];
        if (entry->d_name[0] == '.')
            continue;
        snprintf(child, sizeof(child), "%s/%s", path, entry->d_name);
        r = replay(child);
    }
    closedir(folder);
    return r;
}

int main(int argc, char **argv)
{
    for (int i = 1; i < argc; i++)
        if (replay(argv[i]) < 0)
            return 1;
    printf("%zu inputs\n", replayed);
    return replayed > 0 ? 0 : 1;
}
