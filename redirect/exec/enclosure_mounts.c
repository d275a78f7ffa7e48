/*
 * The file system of the enclosure: the caller's, minus the doors.
 *
 *   /proc        a fresh one for the pid namespace, everything in it but the processes read-only: as root, a
 *                write to /proc/sys/kernel/core_pattern or modprobe would have the kernel run a program
 *                outside
 *   other proc   mounts of procfs elsewhere (chroots) show the outer processes: covered
 *   /sys …       file systems that configure the kernel: read-only (uevent_helper, cgroup v1's
 *                release_agent, binfmt_misc run programs outside, too), or covered where opening a file is
 *                already enough (bpf, tracefs, binder, …)
 *   cgroups      no new cgroup namespaces, so no new mounts of cgroup file systems; the caller's namespace
 *                stays, for programs that ask what memory they may use
 *   /run         rebuilt, default-deny: it is where daemons keep their sockets, and a socket made later (a
 *                daemon that restarts) must not appear either. Masking single files there would not do: when
 *                a daemon removes its socket, the kernel takes our mount off with it (fs/namei.c:
 *                detach_mounts)
 *   /dev         rebuilt, default-deny: of the devices, those that act on this machine's computing and not
 *                on its network or its consoles. RDMA verbs, modems, virtio ports, vsock and uinput are
 *                exits; block devices hold the files of everybody. Its own devpts and /dev/shm
 *   elsewhere    devices do not open (nodev)
 *   resolv.conf  names the gateway
 *
 * A new mount of procfs or sysfs from inside, in whatever user namespace, is refused by the kernel because
 * the mounts that it can see are partly covered by locked mounts (fs/namespace.c: mount_too_revealing).
 *
 * Order matters. The stage, a tmpfs that all covers come from, lies over the outer /proc, and the fresh /proc
 * over the stage, so neither can be reached.
 */
#include "redirect/exec/enclosure_internal.h"

#include "base/fds.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <limits.h>
#include <pwd.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#define TTY_GROUP 5 /* in every distribution; write(1) and mesg(1) want it */
#define SAFE_FLAGS (MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC)

/* Entries of /run that hold files for everybody, no sockets of daemons; NixOS has its programs there. */
static const char *const run_folders[] = {"lock",           "secrets",       "media",
                                          "mount",          "wrappers",      "opengl-driver*",
                                          "current-system", "booted-system", NULL};
/* /run/udev itself holds udevd's control socket. */
static const char *const run_subfolders[] = {"udev/data", "udev/tags", NULL};
/* Computing devices. Symbolic links of /dev and pts, shm, mqueue are made anew. */
static const char *const device_names[] = {
    "null",   "zero",  "full",    "random",  "urandom",     "tty",     "kvm",         "fuse", "net",
    "dri",    "kfd",   "accel",   "nvidia*", "dma_heap",    "udmabuf", "hugepages",   "snd",  "video*",
    "ntsync", "hwrng", "neuron*", "apex_*",  "habanalabs*", "sgx_*",   "userfaultfd", NULL};

static const char *const read_only_types[] = {"sysfs",   "cgroup",  "cgroup2",     "securityfs", "efivarfs",
                                              "pstore",  "fusectl", "binfmt_misc", "selinuxfs",  "smackfs",
                                              "resctrl", "dlmfs",   NULL};
static const char *const covered_types[] = {"proc",       "bpf",        "debugfs",  "tracefs", "configfs",
                                            "rpc_pipefs", "nfsd",       "nsfs",     "mqueue",  "binder",
                                            "xenfs",      "functionfs", "devtmpfs", NULL};

static bool is_one_of(const char *name, const char *const *patterns)
{
    for (; *patterns; patterns++)
        if (!fnmatch(*patterns, name, 0))
            return true;
    return false;
}

/* What the caller cannot reach, the command cannot reach either. */
static bool is_out_of_reach(int code)
{
    return code == ENOENT || code == EACCES || code == ENOTDIR || code == ELOOP;
}

static int set_attributes(int folder, const char *path, unsigned flags, uint64_t set, uint64_t clear,
                          struct error *err)
{
    struct mount_attr attributes = {.attr_set = set, .attr_clr = clear};
    if (mount_setattr(folder, path, flags, &attributes, sizeof(attributes)) < 0)
        return error_errno(err, errno, "cannot change the mount at %s", path);
    return 0;
}

/* Clone the tree at `from` (with everything mounted in it) onto `to`. */
static int bind_tree(int from_folder, const char *from, int to_folder, const char *to, struct error *err)
{
    int _cleanup_fd_ tree = open_tree(from_folder, from, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_RECURSIVE);
    if (tree < 0)
        return error_errno(err, errno, "cannot clone the mount at %s", from);
    if (move_mount(tree, "", to_folder, to, MOVE_MOUNT_F_EMPTY_PATH) < 0)
        return error_errno(err, errno, "cannot mount over %s", to);
    return 0;
}

int stage_cover(const struct stage *stage, const char *name, const char *target, struct error *err)
{
    return bind_tree(stage->root, name, AT_FDCWD, target, err);
}

/* Over a folder or a file, whichever `path` is. Nothing to do where there is nothing. */
static int cover(const struct stage *stage, const char *path, struct error *err)
{
    struct stat status;
    if (lstat(path, &status) < 0)
        return is_out_of_reach(errno) ? 0 : error_errno(err, errno, "cannot look at %s", path);
    return stage_cover(stage, S_ISDIR(status.st_mode) ? "empty" : "inert", path, err);
}

/* --- the stage ------------------------------------------------------------------------------------------ */

static int make_folder(int at, const char *name, mode_t mode, struct error *err)
{
    if (mkdirat(at, name, mode) < 0 && errno != EEXIST)
        return error_errno(err, errno, "cannot make the folder %s", name);
    return 0;
}

static int make_file(int at, const char *name, mode_t mode, const char *text, struct error *err)
{
    int _cleanup_fd_ fd = openat(at, name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, mode);
    if (fd < 0)
        return error_errno(err, errno, "cannot make the file %s", name);
    if (text && write(fd, text, strlen(text)) != (ssize_t)strlen(text))
        return error_errno(err, errno, "cannot write the file %s", name);
    return 0;
}

static int make_read_only(const struct stage *stage, const char *name, struct error *err)
{
    int failed = bind_tree(stage->root, name, stage->root, name, err);
    return failed ? failed : set_attributes(stage->root, name, 0, MOUNT_ATTR_RDONLY | SAFE_FLAGS, 0, err);
}

#define RESOLV_CONF                                                          \
    "# written by sallyport: the gateway answers whatever server is asked\n" \
    "nameserver " SEALED_RESOLVER4 "\nnameserver " SEALED_RESOLVER6 "\noptions edns0\n"

static int stage_open(struct stage *ret, struct error *err)
{
    if (mount("sallyport", "/proc", "tmpfs", MS_NOSUID | MS_NODEV, "mode=0755") < 0)
        return error_errno(err, errno, "cannot mount a tmpfs");
    struct stage stage = {.root = open("/proc", O_PATH | O_DIRECTORY | O_CLOEXEC)};
    int failed;
    if (stage.root < 0)
        return error_errno(err, errno, "cannot open the stage");
    if ((failed = make_folder(stage.root, "empty", 0555, err)) ||
        (failed = make_folder(stage.root, "run", 0755, err)) ||
        (failed = make_folder(stage.root, "dev", 0755, err)) ||
        (failed = make_folder(stage.root, "shm", 01777, err)) ||
        (failed = make_file(stage.root, "inert", 0444, NULL, err)) ||
        (failed = make_file(stage.root, "resolv.conf", 0644, RESOLV_CONF, err)) ||
        (failed = make_read_only(&stage, "empty", err)) || (failed = make_read_only(&stage, "inert", err)))
        return failed;
    *ret = stage;
    return 0;
}

int stage_cover_own(const struct stage *stage, const char *target, mode_t mode, struct error *err)
{
    static unsigned made;
    char name[32];
    snprintf(name, sizeof(name), "own-%u", made++);
    int failed = make_folder(stage->root, name, mode, err);
    return failed ? failed : stage_cover(stage, name, target, err);
}

/* --- /run and /dev, rebuilt ----------------------------------------------------------------------------- */

/* A folder that is being rebuilt: what it was, and the empty one that lies over it now. */
struct rebuild {
    const char *path;
    int old; /* O_PATH */
    int new; /* O_PATH */
};

static int rebuild_begin(const struct stage *stage, const char *path, const char *name, struct rebuild *ret,
                         struct error *err)
{
    struct rebuild rebuild = {.path = path, .old = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC), .new = -1};
    if (rebuild.old < 0)
        return error_errno(err, errno, "cannot open %s", path);
    int failed = stage_cover(stage, name, path, err);
    if (failed)
        return failed;
    rebuild.new = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (rebuild.new < 0)
        return error_errno(err, errno, "cannot open the new %s", path);
    *ret = rebuild;
    return 0;
}

static void rebuild_end(struct rebuild *rebuild)
{
    fd_close(&rebuild->old);
    fd_close(&rebuild->new);
}

/* The old entry `name` (a path relative to the rebuilt folder) appears in the new one; folders on the way are
 * made. */
static int rebuild_keep(const struct rebuild *rebuild, const char *name, struct error *err)
{
    struct stat status, there;
    char path[PATH_MAX];
    int failed;
    if (fstatat(rebuild->old, name, &status, AT_SYMLINK_NOFOLLOW) < 0)
        return is_out_of_reach(errno) ? 0
                                      : error_errno(err, errno, "cannot look at %s/%s", rebuild->path, name);
    if ((size_t)snprintf(path, sizeof(path), "%s", name) >= sizeof(path))
        return error_set(err, ENAMETOOLONG, "%s/%s: too long a path", rebuild->path, name);
    if (fstatat(rebuild->new, name, &there, AT_SYMLINK_NOFOLLOW) == 0 && !S_ISDIR(there.st_mode))
        return 0; /* kept by another name */
    for (char *slash = strchr(path, '/'); slash; slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        if ((failed = make_folder(rebuild->new, path, 0755, err)))
            return failed;
        *slash = '/';
    }
    if (S_ISLNK(status.st_mode)) {
        char target[PATH_MAX] = "";
        if (readlinkat(rebuild->old, name, target, sizeof(target) - 1) < 0 ||
            (symlinkat(target, rebuild->new, name) < 0 && errno != EEXIST))
            return error_errno(err, errno, "cannot copy the link %s/%s", rebuild->path, name);
        return 0;
    }
    failed = S_ISDIR(status.st_mode) ? make_folder(rebuild->new, name, 0755, err)
                                     : make_file(rebuild->new, name, 0644, NULL, err);
    if (failed)
        return failed;
    if ((failed = bind_tree(rebuild->old, name, rebuild->new, name, err)) && is_out_of_reach(-failed))
        return 0;
    return failed;
}

/* What was named with --keep below the folder. */
static int rebuild_keep_named(const struct rebuild *rebuild, const struct paths *keep, struct error *err)
{
    for (size_t i = 0; i < keep->count; i++) {
        const char *path = keep->items[i];
        int failed;
        if (!path_is_within(path, rebuild->path) || !strcmp(path, rebuild->path))
            continue;
        if ((failed = rebuild_keep(rebuild, path + strlen(rebuild->path) + 1, err)))
            return failed;
    }
    return 0;
}

static bool keeps_run_entry(const struct rebuild *run, const char *name)
{
    struct stat status;
    if (fstatat(run->old, name, &status, AT_SYMLINK_NOFOLLOW) < 0)
        return false;
    return S_ISREG(status.st_mode) || S_ISLNK(status.st_mode) ||
           (S_ISDIR(status.st_mode) && is_one_of(name, run_folders));
}

static bool keeps_device(const struct rebuild *dev, const char *name)
{
    struct stat status;
    if (!is_one_of(name, device_names) || fstatat(dev->old, name, &status, AT_SYMLINK_NOFOLLOW) < 0)
        return false;
    return S_ISCHR(status.st_mode) || S_ISDIR(status.st_mode);
}

static int rebuild_keep_entries(const struct rebuild *rebuild,
                                bool (*keeps)(const struct rebuild *, const char *), struct error *err)
{
    int fd = openat(rebuild->old, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC), failed = 0;
    DIR *folder = fd < 0 ? NULL : fdopendir(fd);
    if (!folder)
        return error_errno(err, errno, "cannot read the folder %s", rebuild->path);
    for (struct dirent *entry; !failed && (entry = readdir(folder));)
        if (strcmp(entry->d_name, ".") && strcmp(entry->d_name, "..") && keeps(rebuild, entry->d_name))
            failed = rebuild_keep(rebuild, entry->d_name, err);
    closedir(folder);
    return failed;
}

/* /run/user/UID: an empty folder of the user's own. */
static int make_user_folder(const struct rebuild *run, struct error *err)
{
    char name[32];
    snprintf(name, sizeof(name), "user/%u", (unsigned)geteuid());
    int failed = make_folder(run->new, "user", 0755, err);
    return failed ? failed : make_folder(run->new, name, 0700, err);
}

static int rebuild_run(const struct stage *stage, const char *path, const struct paths *keep,
                       struct error *err)
{
    struct rebuild run;
    struct stat status;
    int failed;
    if (paths_contain(keep, path) || lstat(path, &status) < 0 || !S_ISDIR(status.st_mode))
        return 0;
    if ((failed = rebuild_begin(stage, path, "run", &run, err)))
        return failed;
    if (!(failed = make_user_folder(&run, err)) &&
        !(failed = rebuild_keep_entries(&run, keeps_run_entry, err)))
        failed = rebuild_keep_named(&run, keep, err);
    for (const char *const *name = run_subfolders; *name && !failed; name++)
        failed = rebuild_keep(&run, *name, err);
    rebuild_end(&run);
    return failed;
}

/* Terminals of its own: those of others cannot be read or written. The caller's terminal appears as
 * /dev/console, where ttyname(3) finds it. */
static int mount_terminals(const struct rebuild *dev, const char *terminal, struct error *err)
{
    int failed;
    if ((failed = make_folder(dev->new, "pts", 0755, err)))
        return failed;
    struct stat tty;
    bool has_tty_group =
        fstatat(dev->old, "tty", &tty, 0) == 0 && tty.st_gid == TTY_GROUP; /* is it mapped? */
    const char *options =
        has_tty_group ? "newinstance,ptmxmode=0666,mode=0620,gid=5" : "newinstance,ptmxmode=0666,mode=0600";
    if (mount("devpts", "/dev/pts", "devpts", MS_NOSUID | MS_NOEXEC, options) < 0)
        return error_errno(err, errno, "cannot mount new terminals at /dev/pts");
    if (!terminal)
        return 0;
    if ((failed = make_file(dev->new, "console", 0600, NULL, err)))
        return failed;
    int _cleanup_fd_ old = openat(dev->old, "pts", O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (!strncmp(terminal, "/dev/pts/", 9))
        return old < 0 ? 0 : bind_tree(old, terminal + 9, dev->new, "console", err);
    if (!strncmp(terminal, "/dev/", 5))
        return bind_tree(dev->old, terminal + 5, dev->new, "console", err);
    return 0;
}

static int make_device_links(const struct rebuild *dev, struct error *err)
{
    static const char *const links[][2] = {{"pts/ptmx", "ptmx"},
                                           {"/proc/self/fd", "fd"},
                                           {"/proc/self/fd/0", "stdin"},
                                           {"/proc/self/fd/1", "stdout"},
                                           {"/proc/self/fd/2", "stderr"}};
    for (size_t i = 0; i < sizeof(links) / sizeof(*links); i++)
        if (symlinkat(links[i][0], dev->new, links[i][1]) < 0)
            return error_errno(err, errno, "cannot make /dev/%s", links[i][1]);
    return 0;
}

/* The message queues of the enclosure's own ipc namespace; a kernel without them is fine. */
static int mount_queues(const struct rebuild *dev, struct error *err)
{
    int failed = make_folder(dev->new, "mqueue", 0755, err);
    if (!failed && mount("mqueue", "/dev/mqueue", "mqueue", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL) < 0 &&
        errno != ENODEV)
        return error_errno(err, errno, "cannot mount /dev/mqueue");
    return failed;
}

static int rebuild_dev(const struct stage *stage, const struct paths *keep, const char *terminal,
                       struct error *err)
{
    struct rebuild dev;
    int failed;
    if (paths_contain(keep, "/dev"))
        return 0;
    if ((failed = rebuild_begin(stage, "/dev", "dev", &dev, err)))
        return failed;
    if (!(failed = rebuild_keep_entries(&dev, keeps_device, err)) &&
        !(failed = make_device_links(&dev, err)) && !(failed = mount_terminals(&dev, terminal, err)) &&
        !(failed = mount_queues(&dev, err)) && !(failed = make_folder(dev.new, "shm", 01777, err)) &&
        !(failed = stage_cover(stage, "shm", "/dev/shm", err)))
        failed = rebuild_keep_named(&dev, keep, err);
    rebuild_end(&dev);
    return failed;
}

/* --- the rest ------------------------------------------------------------------------------------------- */

static bool has_submounts(const struct mount_table *mounts, const struct mount_entry *entry)
{
    for (size_t i = 0; i < mounts->count; i++)
        if (strcmp(mounts->entries[i].point, entry->point) &&
            path_is_within(mounts->entries[i].point, entry->point))
            return true;
    return false;
}

/* An automounter runs outside and looks up what it is asked for ("/net/HOST"). With something mounted below,
 * it is the user's home or the like, and stays. */
static bool is_idle_automount(const struct mount_table *mounts, const struct mount_entry *entry)
{
    return !strcmp(entry->type, "autofs") && !has_submounts(mounts, entry);
}

/* No devices outside /dev. Everything gets the flag in one call, then what belongs to /dev loses it again. */
static int forbid_devices(const struct mount_table *mounts, struct error *err)
{
    bool own_dev = false;
    int failed = set_attributes(AT_FDCWD, "/", AT_RECURSIVE, MOUNT_ATTR_NODEV, 0, err);
    for (size_t i = 0; i < mounts->count && !failed; i++) {
        const struct mount_entry *entry = &mounts->entries[i];
        own_dev = own_dev || !strcmp(entry->point, "/dev");
        if (entry->nodev || !path_is_within(entry->point, "/dev"))
            continue;
        failed = set_attributes(AT_FDCWD, entry->point, 0, 0, MOUNT_ATTR_NODEV, err);
        if (failed == -EPERM || is_out_of_reach(-failed))
            failed = 0; /* locked by whoever made our namespace (another mount may lie over it): it had the
                           flag before */
    }
    if (!failed && !own_dev) /* the nodes lie in the root file system */
        failed = set_attributes(AT_FDCWD, "/", 0, 0, MOUNT_ATTR_NODEV, err);
    return failed;
}

static int restrict_kernel_mounts(const struct stage *stage, const struct mount_table *mounts,
                                  const struct paths *keep, struct error *err)
{
    for (size_t i = 0; i < mounts->count; i++) {
        const struct mount_entry *entry = &mounts->entries[i];
        int failed = 0;
        if (path_is_within(entry->point, "/proc") || path_is_within(entry->point, "/dev") ||
            paths_cover(keep, entry->point))
            continue;
        if (is_one_of(entry->type, covered_types) || is_idle_automount(mounts, entry))
            failed = cover(stage, entry->point, err);
        else if (is_one_of(entry->type, read_only_types))
            failed = set_attributes(AT_FDCWD, entry->point, 0, MOUNT_ATTR_RDONLY, 0, err);
        if (failed && !is_out_of_reach(-failed))
            return failed;
    }
    return 0;
}

/* A sysfs that is partly covered cannot be mounted anew; see the head comment. */
static int cover_sysfs_partly(const struct mount_table *mounts, struct error *err)
{
    for (size_t i = 0; i < mounts->count; i++) {
        char part[PATH_MAX];
        if (strcmp(mounts->entries[i].type, "sysfs") || strcmp(mounts->entries[i].root, "/"))
            continue;
        snprintf(part, sizeof(part), "%s/kernel", mounts->entries[i].point);
        int failed = bind_tree(AT_FDCWD, part, AT_FDCWD, part, err);
        if (failed && !is_out_of_reach(-failed))
            return failed;
    }
    return 0;
}

/* Where /etc/resolv.conf leads may have been rebuilt (systemd's stub lies in /run): then the file is made
 * there. */
static int replace_resolv_conf(const struct stage *stage, const char *target, struct error *err)
{
    struct stat status;
    if (!target)
        return 0; /* none: the C library asks 127.0.0.1, which the gateway captures as well */
    if (lstat(target, &status) == 0)
        return stage_cover(stage, "resolv.conf", target, err);
    if (!path_is_within(target, "/run"))
        return 0;
    char path[PATH_MAX];
    int failed;
    snprintf(path, sizeof(path), "%s", target);
    for (char *slash = strchr(path + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        if ((failed = make_folder(AT_FDCWD, path, 0755, err)))
            return failed;
        *slash = '/';
    }
    return make_file(AT_FDCWD, target, 0644, RESOLV_CONF, err);
}

/* A mount of its own: no other socket can be linked or moved into a folder whose sockets may be connected to.
 */
static int separate_kept_folders(const struct paths *keep, struct error *err)
{
    for (size_t i = 0; i < keep->count; i++) {
        const char *path = keep->items[i];
        struct stat status;
        if (!strcmp(path, "/") || path_is_within(path, "/proc") || lstat(path, &status) < 0 ||
            !S_ISDIR(status.st_mode))
            continue;
        int failed = bind_tree(AT_FDCWD, path, AT_FDCWD, path, err);
        if (failed && !is_out_of_reach(-failed))
            return failed;
    }
    return 0;
}

static int write_protect(const char *path, struct error *err)
{
    int failed = bind_tree(AT_FDCWD, path, AT_FDCWD, path, err);
    return failed ? failed : set_attributes(AT_FDCWD, path, 0, MOUNT_ATTR_RDONLY, 0, err);
}

/* The mount that `path` lies on: the last of those with the longest point. */
static const struct mount_entry *mount_of(const struct mount_table *mounts, const char *path)
{
    const struct mount_entry *found = NULL;
    for (size_t i = 0; i < mounts->count; i++) {
        const struct mount_entry *entry = &mounts->entries[i];
        if (path_is_within(path, entry->point) && (!found || strlen(entry->point) >= strlen(found->point)))
            found = entry;
    }
    return found;
}

/* What is behind `prefix` in `path`, without a leading slash. */
static const char *remainder_of(const char *path, const char *prefix)
{
    path += strlen(prefix);
    return path + strspn(path, "/");
}

/* Where `other` shows what `home`, another mount of the same file system, shows at `path`. */
static bool find_alias(const struct mount_entry *home, const struct mount_entry *other, const char *path,
                       char ret[3 * PATH_MAX])
{
    char inner[2 * PATH_MAX];
    if (other == home || other->major != home->major || other->minor != home->minor)
        return false;
    snprintf(inner, sizeof(inner), "%s/%s", home->root[1] ? home->root : "", remainder_of(path, home->point));
    if (!path_is_within(inner, other->root))
        return false;
    const char *rest = remainder_of(inner, other->root);
    snprintf(ret, 3 * PATH_MAX, "%s%s%s", other->point, *rest && other->point[1] ? "/" : "", rest);
    return true;
}

/* At `path`, and wherever another mount shows the same. */
static int write_protect_everywhere(const struct mount_table *mounts, const char *path, struct error *err)
{
    const struct mount_entry *home = mount_of(mounts, path);
    struct stat status, there;
    char alias[3 * PATH_MAX];
    int failed = stat(path, &status) < 0 ? 0 : write_protect(path, err);
    for (size_t i = 0; home && i < mounts->count && !failed; i++)
        if (find_alias(home, &mounts->entries[i], path, alias) && stat(alias, &there) == 0 &&
            there.st_dev == status.st_dev && there.st_ino == status.st_ino)
            failed = write_protect(alias, err);
    return failed;
}

/* The command must not rewrite the file, nor, where that does not stand in the way of its work, put another in its place
 * when it is rotated. */
static int protect_file(const struct mount_table *mounts, const char *path, struct error *err)
{
    char folder[PATH_MAX];
    struct stat status;
    if (!path || stat(path, &status) < 0 || !S_ISREG(status.st_mode))
        return 0;
    snprintf(folder, sizeof(folder), "%.*s", path_folder_length(path), path);
    return write_protect_everywhere(mounts, enclosure_works_in(folder) ? path : folder, err);
}

/* Everything in /proc that is not a process: folders and files that may be written become read-only. */
static int restrict_proc(struct error *err)
{
    int failed = 0;
    DIR *folder = opendir("/proc");
    if (!folder)
        return error_errno(err, errno, "cannot read /proc");
    for (struct dirent *entry; !failed && (entry = readdir(folder));) {
        struct stat status;
        if (entry->d_name[0] == '.' || (entry->d_name[0] >= '0' && entry->d_name[0] <= '9') ||
            entry->d_type == DT_LNK ||
            fstatat(dirfd(folder), entry->d_name, &status, AT_SYMLINK_NOFOLLOW) < 0 ||
            !(S_ISDIR(status.st_mode) || (status.st_mode & 0222)))
            continue;
        failed = bind_tree(dirfd(folder), entry->d_name, dirfd(folder), entry->d_name, err);
    }
    closedir(folder);
    if (!failed &&
        !(failed = set_attributes(AT_FDCWD, "/proc", AT_RECURSIVE, MOUNT_ATTR_RDONLY | SAFE_FLAGS, 0, err)))
        failed = set_attributes(AT_FDCWD, "/proc", 0, 0, MOUNT_ATTR_RDONLY, err);
    return failed;
}

/* In a cgroup namespace of one's own, cgroup file systems can be mounted anew, writable: as root, to kill or
 * freeze processes outside. Elsewhere that takes a capability over the caller's cgroup namespace, which
 * nobody inside has. A limit of user namespace A holds in those nested in it (kernel/ucount.c: inc_ucount),
 * and only A may change it. */
static int forbid_cgroup_namespaces(struct error *err)
{
    const char *path = "/proc/sys/user/max_cgroup_namespaces";
    int failed = file_write(path, "0");
    return failed ? error_errno(err, -failed, "cannot write %s", path) : 0;
}

static int mount_proc(struct error *err)
{
    if (mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL) < 0) {
        const char *hint =
            errno == EPERM ? " (inside another sallyport exec, or in a container that masks parts of /proc; "
                             "for Docker: --security-opt systempaths=unconfined)"
                           : "";
        return error_set(err, errno, "cannot mount a new /proc: %s%s", strerror(errno), hint);
    }
    int failed = forbid_cgroup_namespaces(err);
    return failed ? failed : restrict_proc(err);
}

/* Both spellings of what the user named, as masks are looked up by resolved paths. */
int enclosure_keep(const struct enclosure_plan *plan, struct paths *ret)
{
    for (size_t i = 0; i < plan->keep_count; i++) {
        char resolved[PATH_MAX];
        if (realpath(plan->keep[i], resolved) && paths_add(ret, resolved) < 0)
            return -ENOMEM;
        if (paths_add(ret, plan->keep[i]) < 0)
            return -ENOMEM;
    }
    return 0;
}

/* Where /etc/resolv.conf is, links followed; the end of a dangling link too. NULL when there is none. */
static const char *find_resolv_conf(char path[PATH_MAX])
{
    if (realpath("/etc/resolv.conf", path))
        return path;
    ssize_t length = readlink("/etc/resolv.conf", path, PATH_MAX - 1);
    if (length <= 0)
        return NULL;
    path[length] = '\0';
    if (!strncmp(path, "../run/", 7))
        memmove(path, path + 2, strlen(path + 2) + 1);
    return path[0] == '/' && !strstr(path, "/../") ? path : NULL;
}

/* What is looked up by path before the paths lead elsewhere. */
struct places {
    char resolver[PATH_MAX], read_only[PATH_MAX], terminal[PATH_MAX];
    const char *resolver_at, *read_only_at, *terminal_at; /* the above, or NULL */
};

static void find_places(const struct enclosure_plan *plan, struct places *ret)
{
    *ret = (struct places){0};
    ret->resolver_at = find_resolv_conf(ret->resolver);
    ret->read_only_at = plan->read_only_file ? realpath(plan->read_only_file, ret->read_only) : NULL;
    for (int fd = 0; fd < 3 && !ret->terminal_at; fd++)
        if (ttyname_r(fd, ret->terminal, sizeof(ret->terminal)) == 0)
            ret->terminal_at = ret->terminal;
}

int enclosure_mount(const struct enclosure_plan *plan, const struct paths *keep, struct error *err)
{
    struct mount_table mounts;
    struct stage stage;
    struct places places;
    int failed;
    mode_t umask_before = umask(0);

    if (unshare(CLONE_NEWNS) < 0)
        return error_errno(err, errno, "cannot make a mount namespace");
    if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
        return error_errno(err, errno, "cannot make the mounts private");
    if (enclosure_environment(keep) < 0)
        return error_errno(err, ENOMEM, "cannot prepare the enclosure");
    find_places(plan, &places);
    if ((failed = mount_table_read(&mounts, err)) || (failed = forbid_devices(&mounts, err)) ||
        (failed = stage_open(&stage, err)) || (failed = restrict_kernel_mounts(&stage, &mounts, keep, err)) ||
        (failed = cover_sysfs_partly(&mounts, err)) || (failed = rebuild_run(&stage, "/run", keep, err)) ||
        (failed = rebuild_run(&stage, "/var/run", keep, err)) ||
        (failed = rebuild_dev(&stage, keep, places.terminal_at, err)) ||
        (failed = enclosure_mask_sockets(&stage, keep, err)) || (failed = separate_kept_folders(keep, err)) ||
        (failed = replace_resolv_conf(&stage, places.resolver_at, err)) ||
        (failed = protect_file(&mounts, places.read_only_at, err)) || (failed = mount_proc(err)))
        return failed;
    close(stage.root);
    umask(umask_before);
    return 0;
}
