//! Reads the system's values of this process, which every exporter names alike (`process_…`). A value that can't be read is
//! left out.

use std::{fs, time::Duration};

/// The values of this process at one time.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) cpu: Duration,
    /// Resident memory in bytes; `None` where the system does not tell.
    pub(super) resident: Option<u64>,
    pub(super) open_fds: Option<u64>,
    pub(super) max_fds: Option<u64>,
}

impl Process {
    pub(super) fn read() -> Self {
        let spent = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
        Self {
            cpu: spent.try_into().unwrap_or_default(),
            resident: fs::read_to_string("/proc/self/status").ok().and_then(|status| resident(&status)),
            // The directory itself is open while it is read.
            open_fds: fs::read_dir("/proc/self/fd").ok().map(|entries| (entries.count() as u64).saturating_sub(1)),
            max_fds: rustix::process::getrlimit(rustix::process::Resource::Nofile).current,
        }
    }
}

/// Resident memory in bytes. The kernel gives it in kB, independent of the page size (proc(5)).
fn resident(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kilobytes.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resident_memory_is_read_from_the_status() {
        let status = "Name:\tx\nVmPeak:\t  9 kB\nVmRSS:\t    9216 kB\nThreads:\t3\n";
        assert_eq!(resident(status), Some(9_437_184));
        assert_eq!(resident("Name:\tx\n"), None);
        assert_eq!(resident("VmRSS:\tmuch kB\n"), None);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_process_has_memory_descriptors_and_a_limit() {
        let process = Process::read();
        assert!(process.resident.unwrap() > 1024 * 1024);
        let (open, max) = (process.open_fds.unwrap(), process.max_fds.unwrap());
        assert!((3..=max).contains(&open), "{open} {max}");
    }
}
