//! This file tells what a run ran on: as far as Linux says it, and nothing where it does not.

use std::fs;

use super::results::{Machine, Versions};
use super::target::About;

/// This machine.
pub(crate) fn machine() -> Machine {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let kernel = read("/proc/sys/kernel/osrelease");
    let name = field(&read("/etc/os-release"), "PRETTY_NAME", '=').unwrap_or_else(|| std::env::consts::OS.to_owned());
    let kilobytes = field(&read("/proc/meminfo"), "MemTotal", ':');
    let kilobytes = kilobytes.and_then(|text| text.trim_end_matches(" kB").parse::<u64>().ok());
    Machine {
        processor: field(&read("/proc/cpuinfo"), "model name", ':').unwrap_or_default(),
        cores: std::thread::available_parallelism().map_or(0, |cores| u32::try_from(cores.get()).unwrap_or(u32::MAX)),
        memory_bytes: kilobytes.unwrap_or_default() * 1_024,
        os: format!("{name} {}", kernel.trim()).trim().to_owned(),
    }
}

/// This program, with this target.
pub(crate) fn versions(about: &About) -> Versions {
    Versions {
        essaim: env!("CARGO_PKG_VERSION").to_owned(),
        store: about.store(),
        server: about.server.clone(),
        // A slow generator spoils the figures as a slow daemon does.
        optimised: !cfg!(debug_assertions) && about.optimised.unwrap_or(true),
    }
}

/// The value of the first line with this name.
fn field(text: &str, name: &str, separator: char) -> Option<String> {
    text.lines().find_map(|line| {
        let (found, value) = line.split_once(separator)?;
        (found.trim() == name).then(|| value.trim().trim_matches('"').to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_found_by_its_whole_name() {
        let text = "MemTotalX:  1 kB\nMemTotal:   2048 kB\n";

        assert_eq!(field(text, "MemTotal", ':').as_deref(), Some("2048 kB"));
        assert_eq!(field(text, "Mem", ':'), None);
    }
}
