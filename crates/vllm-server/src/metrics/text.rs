//! The Prometheus text format.

use std::fmt::Write;

/// Label names and values of one sample; written in the order of their names.
pub(crate) type Labels<'a> = [(&'a str, &'a str)];

/// A page of metrics under construction.
#[derive(Debug)]
pub(crate) struct Exposition {
    text: String,
    /// Unix seconds at which all counters and histograms began.
    created: f64,
}

/// A histogram's numbers at one moment.
#[derive(Debug)]
pub(crate) struct HistogramSample<'a> {
    pub(crate) bounds: &'a [f64],
    /// One more than `bounds`, each including those before it.
    pub(crate) cumulative_counts: &'a [u64],
    pub(crate) sum: f64,
}

impl Exposition {
    pub(crate) fn new(created: f64) -> Self {
        Self {
            text: String::with_capacity(32 << 10),
            created,
        }
    }

    pub(crate) fn finish(self) -> String {
        self.text
    }

    pub(crate) fn gauge(&mut self, name: &str, help: &str, samples: &[(&Labels<'_>, f64)]) {
        self.header(name, help, "gauge");
        for (labels, value) in samples {
            self.sample(name, labels, *value);
        }
    }

    /// A counter; `name` without its `_total`.
    pub(crate) fn counter(&mut self, name: &str, help: &str, samples: &[(&Labels<'_>, f64)]) {
        let total = format!("{name}_total");
        self.header(&total, help, "counter");
        for (labels, value) in samples {
            self.sample(&total, labels, *value);
        }
        self.created(name, help, samples.iter().map(|(labels, _)| *labels));
    }

    /// A counter without labels that does not say since when it counts; `name` without `_total`.
    pub(crate) fn plain_counter(&mut self, name: &str, help: &str, value: f64) {
        let total = format!("{name}_total");
        self.header(&total, help, "counter");
        self.sample(&total, &[], value);
    }

    pub(crate) fn histogram(
        &mut self,
        name: &str,
        help: &str,
        samples: &[(&Labels<'_>, HistogramSample<'_>)],
    ) {
        self.header(name, help, "histogram");
        let (bucket, count, sum) = (
            format!("{name}_bucket"),
            format!("{name}_count"),
            format!("{name}_sum"),
        );
        for (labels, sample) in samples {
            let bounds = sample.bounds.iter().map(|bound| format!("{bound:?}"));
            let bounds = bounds.chain(std::iter::once("+Inf".to_owned()));
            for (bound, cumulative) in bounds.zip(sample.cumulative_counts) {
                let mut with_bound = labels.to_vec();
                with_bound.push(("le", &bound));
                self.sample(&bucket, &with_bound, *cumulative as f64);
            }
            let total = sample.cumulative_counts.last().copied().unwrap_or(0);
            self.sample(&count, labels, total as f64);
            self.sample(&sum, labels, sample.sum);
        }
        self.created(name, help, samples.iter().map(|(labels, _)| *labels));
    }

    /// A summary of count and sum.
    pub(crate) fn summary(&mut self, name: &str, help: &str, samples: &[(&Labels<'_>, u64, f64)]) {
        self.header(name, help, "summary");
        let (count, sum) = (format!("{name}_count"), format!("{name}_sum"));
        for (labels, number, total) in samples {
            self.sample(&count, labels, *number as f64);
            self.sample(&sum, labels, *total);
        }
        self.created(name, help, samples.iter().map(|(labels, ..)| *labels));
    }

    fn created<'a>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl Iterator<Item = &'a Labels<'a>>,
    ) {
        let name = format!("{name}_created");
        self.header(&name, help, "gauge");
        let created = self.created;
        for labels in samples {
            self.sample(&name, labels, created);
        }
    }

    fn header(&mut self, name: &str, help: &str, kind: &str) {
        // Writing to a string cannot fail, here and below.
        let _ = writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn sample(&mut self, name: &str, labels: &Labels<'_>, value: f64) {
        self.text.push_str(name);
        if !labels.is_empty() {
            let mut sorted = labels.to_vec();
            sorted.sort_unstable();
            for (index, (label, value)) in sorted.iter().enumerate() {
                self.text.push(if index == 0 { '{' } else { ',' });
                let _ = write!(self.text, "{label}=\"");
                self.escaped(value);
                self.text.push('"');
            }
            self.text.push('}');
        }
        let _ = writeln!(self.text, " {value:?}");
    }

    fn escaped(&mut self, value: &str) {
        for character in value.chars() {
            match character {
                '\\' => self.text.push_str("\\\\"),
                '"' => self.text.push_str("\\\""),
                '\n' => self.text.push_str("\\n"),
                other => self.text.push(other),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_sorted_and_escaped() {
        let mut page = Exposition::new(7.0);
        page.gauge(
            "x",
            "A gauge.",
            &[(&[("z", "a\"b\\c\nd"), ("a", "1")], 0.5)],
        );
        assert_eq!(
            page.finish(),
            "# HELP x A gauge.\n# TYPE x gauge\nx{a=\"1\",z=\"a\\\"b\\\\c\\nd\"} 0.5\n"
        );
    }

    #[test]
    fn counters_end_in_total_and_say_since_when() {
        let mut page = Exposition::new(7.0);
        page.counter("x", "A counter.", &[(&[], 3.0)]);
        assert_eq!(
            page.finish(),
            "# HELP x_total A counter.\n# TYPE x_total counter\nx_total 3.0\n\
             # HELP x_created A counter.\n# TYPE x_created gauge\nx_created 7.0\n"
        );
    }

    #[test]
    fn histograms_list_every_bucket() {
        let mut page = Exposition::new(7.0);
        let sample = HistogramSample {
            bounds: &[0.5, 10.0],
            cumulative_counts: &[1, 2, 4],
            sum: 31.5,
        };
        page.histogram("h", "Times.", &[(&[("m", "a")], sample)]);
        let text = page.finish();
        for line in [
            "h_bucket{le=\"0.5\",m=\"a\"} 1.0",
            "h_bucket{le=\"10.0\",m=\"a\"} 2.0",
            "h_bucket{le=\"+Inf\",m=\"a\"} 4.0",
            "h_count{m=\"a\"} 4.0",
            "h_sum{m=\"a\"} 31.5",
            "h_created{m=\"a\"} 7.0",
        ] {
            assert!(
                text.lines().any(|found| found == line),
                "{line} is missing in\n{text}"
            );
        }
    }
}
