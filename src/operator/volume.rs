//! What lies under the log's folder: a file system that forgets, one whose locks and syncs are only
//! as good as a server's, one that takes no writes, or one that is nearly full.

use std::path::Path;

use unanimous_core::ports::{Finding, Severity};

/// How many segments a log holds at a time, at most: see `docs/log-format.md`.
const SEGMENTS: u64 = 3;

/// A log makes a segment before it removes one, and replaces its file `identity` by a new one.
const FILES: u64 = 8;

/// What is wrong with the place of a log whose segments have this length.
pub(super) fn findings(folder: &Path, segment_bytes: u64) -> Vec<Finding> {
    let volume = rustix::fs::statvfs(folder).ok();
    kind(folder)
        .into_iter()
        .chain(without_barriers(folder))
        .chain(
            volume
                .map(|volume| room(folder, &volume, segment_bytes))
                .into_iter()
                .flatten(),
        )
        .collect()
}

#[cfg(target_os = "linux")]
fn kind(folder: &Path) -> Option<Finding> {
    #[allow(
        clippy::useless_conversion,
        reason = "it has another type on other machines"
    )]
    let magic = i64::from(rustix::fs::statfs(folder).ok()?.f_type);
    judge_kind(folder, magic)
}

/// By the numbers that Linux gives to kinds of file systems: `statfs(2)`.
#[cfg(target_os = "linux")]
fn judge_kind(folder: &Path, magic: i64) -> Option<Finding> {
    const FORGETFUL: [(i64, &str); 2] = [(0x0102_1994, "tmpfs"), (0x8584_58f6, "ramfs")];
    const OVERLAY: (i64, &str) = (0x794c_7630, "overlayfs");
    const ELSEWHERE: [(i64, &str); 10] = [
        (0x6969, "NFS"),
        (0xff53_4d42, "CIFS"),
        (0xfe53_4d42, "SMB2"),
        (0x517b, "SMB"),
        (0x00c3_6400, "Ceph"),
        (0x0102_1997, "9P"),
        (0x5346_414f, "AFS"),
        (0x7375_7245, "Coda"),
        (0x7461_636f, "OCFS2"),
        (0x6573_5546, "FUSE"),
    ];

    let place = folder.display();
    let is = |(known, _): &&(i64, &str)| *known == magic;
    if let Some((_, name)) = FORGETFUL.iter().find(is) {
        return Some(Finding::new(
            Severity::Error,
            "file system",
            format!(
                "{place} is in memory ({name}): a restart of this machine loses every decision, \
                 and with them what was answered to be committed"
            ),
            "put the log on a disk",
        ));
    }
    if magic == OVERLAY.0 {
        return Some(Finding::new(
            Severity::Warning,
            "file system",
            format!(
                "{place} is in a layer of a container ({}): it goes when the container is removed, \
                 and every decision with it",
                OVERLAY.1
            ),
            "put the log on a volume",
        ));
    }
    let (_, name) = ELSEWHERE.iter().find(is)?;
    Some(Finding::new(
        Severity::Warning,
        "file system",
        format!(
            "{place} is on a network or served by a program ({name}): locks and syncs are only as \
             good as what serves it; two machines must never open one log"
        ),
        "put the log on a disk of this machine",
    ))
}

#[cfg(not(target_os = "linux"))]
fn kind(_folder: &Path) -> Option<Finding> {
    None
}

/// A disk's own memory is flushed by barriers. By `/proc/self/mountinfo`, see `proc(5)`.
#[cfg(target_os = "linux")]
fn without_barriers(folder: &Path) -> Option<Finding> {
    use std::os::unix::fs::MetadataExt as _;

    let device = folder.metadata().ok()?.dev();
    let device = format!(
        "{}:{}",
        rustix::fs::major(device),
        rustix::fs::minor(device)
    );
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").ok()?;
    let option = barrier_option(&mounts, &device)?;
    Some(Finding::new(
        Severity::Error,
        "mount options",
        format!(
            "{} is on a file system that is mounted with {option}: what was synced stays in the \
             memory of the disk, and is lost when the power fails",
            folder.display()
        ),
        format!("remove {option} from its line in /etc/fstab, and mount it again"),
    ))
}

#[cfg(not(target_os = "linux"))]
fn without_barriers(_folder: &Path) -> Option<Finding> {
    None
}

/// The option by which the file system of a device does without barriers.
#[cfg(target_os = "linux")]
fn barrier_option<'a>(mounts: &'a str, device: &str) -> Option<&'a str> {
    let is_of_device = |line: &&str| line.split(' ').nth(2) == Some(device);
    let mount = mounts.lines().find(is_of_device)?;
    let mut options = mount.split([' ', ',']);
    options.find(|option| ["nobarrier", "barrier=0"].contains(option))
}

fn room(folder: &Path, volume: &rustix::fs::StatVfs, segment_bytes: u64) -> Vec<Finding> {
    let mut findings = Vec::new();
    let place = folder.display();
    if volume
        .f_flag
        .contains(rustix::fs::StatVfsMountFlags::RDONLY)
    {
        findings.push(Finding::new(
            Severity::Error,
            "file system",
            format!("{place} is on a file system that is mounted read-only"),
            "mount it for writing, or put the log elsewhere",
        ));
    }
    let free = volume.f_bavail.saturating_mul(volume.f_frsize);
    findings.extend(space(folder, free, segment_bytes));
    // Some file systems make room for files as they come, and count none.
    if volume.f_files > 0 {
        findings.extend(files(folder, volume.f_favail));
    }
    findings
}

fn space(folder: &Path, free: u64, segment_bytes: u64) -> Option<Finding> {
    let needed = segment_bytes.saturating_mul(SEGMENTS);
    (free < needed).then(|| {
        Finding::new(
            Severity::Warning,
            "space",
            format!(
                "{} has {} MiB free, and a log may need {} MiB: when the disk is full, nothing can \
                 be committed",
                folder.display(),
                free / MIB,
                needed.div_ceil(MIB)
            ),
            "make room on this file system",
        )
    })
}

fn files(folder: &Path, free: u64) -> Option<Finding> {
    (free < FILES).then(|| {
        Finding::new(
            Severity::Warning,
            "inodes",
            format!(
                "the file system of {} has room for {free} more files, and a log may need {FILES}: \
                 without, nothing can be committed",
                folder.display()
            ),
            "remove files there: df -i shows how many it can hold",
        )
    })
}

const MIB: u64 = 1024 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_os = "linux")]
    #[test]
    fn a_log_in_memory_is_an_error() {
        // Linux machines and containers have this, in memory, wherever the rest is.
        let found = kind(Path::new("/dev/shm")).expect("a finding");
        assert_eq!(found.severity, Severity::Error);
        assert!(found.evidence.contains("tmpfs"), "{found}");
    }

    /// What no machine of the tests has: judged by the numbers alone.
    #[cfg(target_os = "linux")]
    #[test]
    fn a_layer_of_a_container_and_a_network_are_warnings() {
        let found = |magic| judge_kind(Path::new("/log"), magic);
        for (magic, name) in [
            (0x794c_7630, "overlayfs"),
            (0x6969, "NFS"),
            (0xff53_4d42, "CIFS"),
            (0x6573_5546, "FUSE"),
        ] {
            let found = found(magic).expect("a finding");
            assert_eq!(found.severity, Severity::Warning);
            assert!(found.evidence.contains(name), "{found}");
        }
        // ext4, btrfs, xfs.
        for magic in [0xef53, 0x9123_683e, 0x5846_5342] {
            assert_eq!(found(magic), None);
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_mount_without_barriers_is_found_by_its_device() {
        let mounts = "22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw,errors=remount-ro\n\
                      23 22 8:2 / /a rw,noatime - ext4 /dev/sda2 rw,nobarrier\n\
                      24 22 8:20 / /b rw - ext3 /dev/sdb4 rw,barrier=0\n";
        for (device, expected) in [
            ("8:1", None),
            ("8:2", Some("nobarrier")),
            ("8:20", Some("barrier=0")),
            ("8:3", None),
        ] {
            assert_eq!(barrier_option(mounts, device), expected, "{device}");
        }
    }

    #[test]
    fn too_little_room_for_the_segments_or_for_files_is_a_warning() {
        let here = Path::new(".");
        assert_eq!(space(here, 3 * MIB, MIB), None);
        let found = space(here, 3 * MIB - 1, MIB).expect("a finding");
        assert_eq!(found.severity, Severity::Warning);
        assert!(found.evidence.contains("2 MiB free"), "{found}");
        assert_eq!(files(here, FILES), None);
        let found = files(here, FILES - 1).expect("a finding");
        assert_eq!(found.severity, Severity::Warning);
    }
}
