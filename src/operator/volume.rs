//! What lies under the log's folder: a file system that forgets, one whose locks and syncs are only
//! as good as a server's, or one that is nearly full.

use std::path::Path;

use unanimous_core::ports::{Finding, Severity};

/// How many segments a log holds at a time, at most: see `docs/log-format.md`.
const SEGMENTS: u64 = 3;

/// What is wrong with the place of a log whose segments have this length.
pub(super) fn findings(folder: &Path, segment_bytes: u64) -> Vec<Finding> {
    kind(folder)
        .into_iter()
        .chain(space(folder, segment_bytes))
        .collect()
}

/// The kinds that Linux names by these numbers in `statfs(2)`.
#[cfg(target_os = "linux")]
fn kind(folder: &Path) -> Option<Finding> {
    const FORGETFUL: [(i64, &str); 2] = [(0x0102_1994, "tmpfs"), (0x8584_58f6, "ramfs")];
    const OVERLAY: (i64, &str) = (0x794c_7630, "overlayfs");
    const NETWORK: [(i64, &str); 4] = [
        (0x6969, "NFS"),
        (0xff53_4d42, "CIFS"),
        (0xfe53_4d42, "SMB2"),
        (0x00c3_6400, "Ceph"),
    ];

    #[allow(
        clippy::useless_conversion,
        reason = "it has another type on other machines"
    )]
    let found = i64::from(rustix::fs::statfs(folder).ok()?.f_type);
    let place = folder.display();
    let is = |(magic, _): &&(i64, &str)| *magic == found;
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
    if found == OVERLAY.0 {
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
    let (_, name) = NETWORK.iter().find(is)?;
    Some(Finding::new(
        Severity::Warning,
        "file system",
        format!(
            "{place} is on a network ({name}): locks and syncs are only as good as its server; two \
             machines must never open one log"
        ),
        "put the log on a disk of this machine",
    ))
}

#[cfg(not(target_os = "linux"))]
fn kind(_folder: &Path) -> Option<Finding> {
    None
}

fn space(folder: &Path, segment_bytes: u64) -> Option<Finding> {
    let volume = rustix::fs::statvfs(folder).ok()?;
    let free = volume.f_bavail.saturating_mul(volume.f_frsize);
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

    #[test]
    fn too_little_room_for_the_segments_is_a_warning() {
        let here = Path::new(".");
        assert_eq!(space(here, 1), None);
        let found = space(here, u64::MAX / SEGMENTS).expect("a finding");
        assert_eq!(found.severity, Severity::Warning);
        assert!(found.evidence.contains("MiB free"), "{found}");
    }
}
