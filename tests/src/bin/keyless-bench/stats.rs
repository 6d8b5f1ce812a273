//! Measured runs: median, p99, and the mean CPU time of each process.

use std::time::Duration;

/// Runs of one operation.
#[derive(Default)]
pub struct Sample {
    walls: Vec<Duration>,
    cpu: Vec<Vec<Duration>>,
}

impl Sample {
    pub fn add(&mut self, wall: Duration, cpu: Vec<Duration>) {
        self.walls.push(wall);
        self.cpu.push(cpu);
    }

    pub fn runs(&self) -> usize {
        self.walls.len()
    }

    /// The smallest value that so many per cent of the runs do not exceed.
    fn percentile(&self, percent: usize) -> Duration {
        let mut sorted = self.walls.clone();
        sorted.sort_unstable();
        let rank = (sorted.len() * percent).div_ceil(100).max(1);
        sorted.get(rank - 1).copied().unwrap_or_default()
    }

    pub fn median(&self) -> Duration {
        self.percentile(50)
    }

    /// A quarter was as fast. ECDSA begins anew until R is low, every second time at least once: its median lies between
    /// two humps and jumps, this does not.
    pub fn quartile(&self) -> Duration {
        self.percentile(25)
    }

    pub fn p99(&self) -> Duration {
        self.percentile(99)
    }

    pub fn max(&self) -> Duration {
        self.percentile(100)
    }

    /// The median CPU time of each member.
    pub fn cpu(&self) -> Vec<Duration> {
        let members = self.cpu.first().map_or(0, Vec::len);
        let median = |member: usize| {
            let mut all: Vec<Duration> = self.cpu.iter().filter_map(|run| run.get(member).copied()).collect();
            all.sort_unstable();
            all.get((all.len().max(1) - 1) / 2).copied().unwrap_or_default()
        };
        (0..members).map(median).collect()
    }
}

/// Milliseconds with as many decimals as matter.
pub fn ms(time: Duration) -> String {
    let ms = time.as_secs_f64() * 1e3;
    match ms {
        ms if ms < 10.0 => format!("{ms:.2}"),
        ms if ms < 100.0 => format!("{ms:.1}"),
        ms => format!("{ms:.0}"),
    }
}
