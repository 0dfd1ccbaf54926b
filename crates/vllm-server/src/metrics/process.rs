//! What the operating system says about this process.

use super::text::Exposition;

/// Clock ticks per second in `/proc`; fixed for programs on Linux.
const TICKS_PER_SECOND: f64 = 100.0;

/// Adds the process families to a page; those that cannot be read are left out.
pub(crate) fn expose(page: &mut Exposition) {
    let mut gauge = |name: &str, help: &str, value: Option<f64>| {
        if let Some(value) = value {
            page.gauge(name, help, &[(&[], value)]);
        }
    };
    let status = read("/proc/self/status");
    gauge(
        "process_virtual_memory_bytes",
        "Virtual memory size in bytes.",
        kibibytes(&status, "VmSize:"),
    );
    gauge(
        "process_resident_memory_bytes",
        "Resident memory size in bytes.",
        kibibytes(&status, "VmRSS:"),
    );
    let stat = read("/proc/self/stat");
    let boot = field(&read("/proc/stat"), "btime").and_then(|text| text.parse::<f64>().ok());
    let started = stat_field(&stat, 22).zip(boot);
    gauge(
        "process_start_time_seconds",
        "Unix time at which the process started.",
        started.map(|(ticks, boot)| boot + ticks / TICKS_PER_SECOND),
    );
    let files = std::fs::read_dir("/proc/self/fd")
        .ok()
        .map(|folder| folder.count() as f64);
    gauge("process_open_fds", "Open file descriptors.", files);
    let limit = field(&read("/proc/self/limits"), "Max open files").map(str::to_owned);
    gauge(
        "process_max_fds",
        "The most file descriptors that may be open.",
        limit.and_then(|text| text.parse().ok()),
    );
    if let Some((user, system)) = stat_field(&stat, 14).zip(stat_field(&stat, 15)) {
        let seconds = (user + system) / TICKS_PER_SECOND;
        page.plain_counter("process_cpu_seconds", "Processor seconds used.", seconds);
    }
}

fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

/// The first word after `name` at the start of a line.
fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines()
        .find_map(|line| line.strip_prefix(name))?
        .split_whitespace()
        .next()
}

fn kibibytes(status: &str, name: &str) -> Option<f64> {
    Some(field(status, name)?.parse::<f64>().ok()? * 1024.0)
}

/// A field of `/proc/self/stat` by its number in the manual. The second field, the program's name,
/// may hold blanks and parentheses, so counting starts behind its end.
fn stat_field(stat: &str, number: usize) -> Option<f64> {
    let (_, behind_name) = stat.rsplit_once(')')?;
    behind_name.split_whitespace().nth(number - 3)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_behind_any_name() {
        let stat = "7 (a b) c) S 1 2 3 4 5 6 7 8 9 10 150 50 13";
        assert_eq!(stat_field(stat, 14), Some(150.0));
        assert_eq!(stat_field(stat, 15), Some(50.0));
        assert_eq!(stat_field(stat, 99), None);
        assert_eq!(
            kibibytes("Name:\tx\nVmRSS:\t  12 kB\n", "VmRSS:"),
            Some(12288.0)
        );
    }

    #[test]
    fn this_process_is_described() {
        let mut page = Exposition::new(0.0);
        expose(&mut page);
        let text = page.finish();
        for name in [
            "process_cpu_seconds_total",
            "process_open_fds",
            "process_max_fds",
        ] {
            assert!(
                text.contains(&format!("\n{name} ")),
                "{name} is missing in\n{text}"
            );
        }
    }
}
