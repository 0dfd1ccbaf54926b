//! The figures of all engines as one table, and as JSON.

use std::fmt::Write;

use super::limits::{Machine, Shape};
use super::programs::{Engine, Measurements, Side, VARIANTS_OF};
use super::workloads::Workload;

pub(super) struct Report {
    model: String,
    machine: Machine,
    shape: Shape,
    columns: Vec<Column>,
}

struct Column {
    engine: String,
    side: Side,
    form: &'static str,
    measurements: Measurements,
}

/// One line of the table.
struct Row {
    name: String,
    unit: &'static str,
    /// The best that the machine allows; `None` where that is not known.
    limit: Option<f64>,
    /// Of each column.
    values: Vec<Option<f64>>,
    /// Less is better.
    is_cost: bool,
}

impl Report {
    pub(super) fn new(model: &str, machine: Machine, shape: Shape) -> Self {
        Self {
            model: model.to_owned(),
            machine,
            shape,
            columns: Vec::new(),
        }
    }

    pub(super) fn add(&mut self, engine: &Engine, measurements: Measurements) {
        self.columns.push(Column {
            engine: engine.name.clone(),
            side: engine.side,
            form: engine.form,
            measurements,
        });
    }

    /// One line per workload: the rate of every engine, ours as a share of what the machine allows
    /// and as a multiple of each peer's.
    pub(super) fn table(&self, workloads: &[Workload]) -> String {
        let mut heads = vec!["".to_owned(), "unit".to_owned(), "limit".to_owned()];
        for column in &self.columns {
            heads.push(column.engine.clone());
            match column.side {
                Side::Ours if column.form == "bf16" => heads.push("/limit".to_owned()),
                Side::Ours => {}
                Side::Peer => heads.push("ours/it".to_owned()),
                Side::Variant => heads.push(format!("/{VARIANTS_OF}")),
            }
        }
        let mut lines = vec![heads];
        for row in self.rows(workloads) {
            let mut line = vec![row.name.clone(), row.unit.to_owned(), figure(row.limit)];
            for (index, column) in self.columns.iter().enumerate() {
                line.push(figure(row.values[index]));
                match column.side {
                    Side::Ours if column.form == "bf16" => {
                        line.push(figure(ratio(row.values[index], row.limit, row.is_cost)));
                    }
                    Side::Ours => {}
                    Side::Peer => line.push(figure(self.ratio_to(index, &row))),
                    Side::Variant => line.push(figure(self.ratio_of_variant(index, &row))),
                }
            }
            lines.push(line);
        }
        format!("{}\n{}\n\n{}", self.model, self.machine, aligned(&lines))
    }

    /// The same figures for programs.
    pub(super) fn json(&self, workloads: &[Workload]) -> String {
        let mut flops = Vec::new();
        for (name, value) in &self.machine.flops {
            flops.push(format!("\"{name}\": {value}"));
        }
        let rows: Vec<String> = self
            .rows(workloads)
            .iter()
            .map(|row| {
                let engines = self.columns.iter().enumerate().map(|(index, column)| {
                    let ratio = match column.side {
                        Side::Ours => ratio(row.values[index], row.limit, row.is_cost),
                        Side::Peer => self.ratio_to(index, row),
                        Side::Variant => self.ratio_of_variant(index, row),
                    };
                    let key = match column.side {
                        Side::Ours => "of_limit",
                        Side::Peer => "ours_to_it",
                        Side::Variant => "to_variant_of",
                    };
                    format!(
                        "{{\"engine\": \"{}\", \"value\": {}, \"{key}\": {}}}",
                        column.engine,
                        number(row.values[index]),
                        number(ratio)
                    )
                });
                let engines = engines.collect::<Vec<_>>().join(", ");
                format!(
                    "    {{\"name\": \"{}\", \"unit\": \"{}\", \"limit\": {}, \"engines\": [{engines}]}}",
                    row.name,
                    row.unit,
                    number(row.limit)
                )
            })
            .collect();
        format!(
            "{{\n  \"model\": \"{}\",\n  \"threads\": {},\n  \"read_bytes_per_second\": {},\n  \
             \"flops\": {{{}}},\n  \"rows\": [\n{}\n  ]\n}}\n",
            self.model,
            self.machine.threads,
            self.machine.read_bytes_per_second,
            flops.join(", "),
            rows.join(",\n")
        )
    }

    fn rows(&self, workloads: &[Workload]) -> Vec<Row> {
        let mut rows = Vec::new();
        for workload in workloads {
            let tokens = workload.counted_tokens() as f64;
            let limit = self.shape.seconds(&self.machine, workload);
            rows.push(Row {
                name: workload.name.to_owned(),
                unit: if workload.new == 1 {
                    "in tok/s"
                } else {
                    "out tok/s"
                },
                limit: self.limit(tokens / limit),
                values: self.values(|m| Some(tokens / m.seconds.get(workload.name)?)),
                is_cost: false,
            });
            let Some(prefill) = workload.prefill else {
                continue;
            };
            let tokens = (workload.batch * (workload.new - 1)) as f64;
            let steps = (workload.new - 1) as f64;
            let limit = steps * self.shape.step_seconds(&self.machine, workload);
            rows.push(Row {
                name: "  its steps alone".to_owned(),
                unit: "out tok/s",
                limit: self.limit(tokens / limit),
                values: self.values(|m| {
                    let seconds = m.seconds.get(workload.name)? - m.seconds.get(prefill)?;
                    Some(tokens / seconds)
                }),
                is_cost: false,
            });
        }
        rows.push(Row {
            name: "start to first token".to_owned(),
            unit: "s",
            limit: None,
            values: self.values(|m| m.ready),
            is_cost: true,
        });
        rows.push(Row {
            name: "peak memory".to_owned(),
            unit: "MB",
            limit: self.limit(self.shape.weight_bytes() / 1e6),
            values: self.values(|m| Some(m.peak? / 1e6)),
            is_cost: true,
        });
        rows
    }

    /// Limits are those of bfloat16 weights.
    fn limit(&self, limit: f64) -> Option<f64> {
        let is_bf16 = self.columns.iter().all(|column| column.form == "bf16");
        is_bf16.then_some(limit)
    }

    fn values(&self, value: impl Fn(&Measurements) -> Option<f64>) -> Vec<Option<f64>> {
        let columns = self.columns.iter();
        columns.map(|column| value(&column.measurements)).collect()
    }

    /// How many times better ours of the same form is than the peer in this column.
    fn ratio_to(&self, peer: usize, row: &Row) -> Option<f64> {
        let ours = self.ours(self.columns[peer].form)?;
        ratio(row.values[ours], row.values[peer], row.is_cost)
    }

    /// How many times better the form in this column is than the one that it is compared with.
    fn ratio_of_variant(&self, variant: usize, row: &Row) -> Option<f64> {
        let ours = self.ours(VARIANTS_OF)?;
        ratio(row.values[variant], row.values[ours], row.is_cost)
    }

    fn ours(&self, form: &str) -> Option<usize> {
        let is_ours = |column: &Column| column.side == Side::Ours && column.form == form;
        self.columns.iter().position(is_ours)
    }
}

fn ratio(ours: Option<f64>, other: Option<f64>, is_cost: bool) -> Option<f64> {
    let ratio = ours? / other?;
    Some(if is_cost { 1.0 / ratio } else { ratio })
}

/// Three digits or more.
fn figure(value: Option<f64>) -> String {
    match value {
        None => "-".to_owned(),
        Some(value) if value >= 100.0 => format!("{value:.0}"),
        Some(value) if value >= 10.0 => format!("{value:.1}"),
        Some(value) => format!("{value:.2}"),
    }
}

fn number(value: Option<f64>) -> String {
    let finite = value.filter(|value| value.is_finite());
    finite.map_or("null".to_owned(), |value| value.to_string())
}

/// The first two columns to the left, numbers to the right.
fn aligned(lines: &[Vec<String>]) -> String {
    let num_columns = lines.first().map_or(0, Vec::len);
    let widths: Vec<usize> = (0..num_columns)
        .map(|column| {
            lines
                .iter()
                .map(|line| line[column].len())
                .max()
                .unwrap_or(0)
        })
        .collect();
    let mut text = String::new();
    for line in lines {
        for (column, (word, width)) in line.iter().zip(&widths).enumerate() {
            let _ = if column < 2 {
                write!(text, "{word:width$}  ")
            } else {
                write!(text, "{word:>width$}  ")
            };
        }
        text.truncate(text.trim_end().len());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned() {
        let line = |words: [&str; 3]| words.map(str::to_owned).to_vec();
        let text = aligned(&[line(["", "unit", "a"]), line(["decode", "s", "1.25"])]);
        assert_eq!(text, "        unit     a\ndecode  s     1.25\n");
    }

    #[test]
    fn a_ratio_above_one_is_good() {
        assert_eq!(ratio(Some(3.0), Some(2.0), false), Some(1.5));
        assert_eq!(ratio(Some(2.0), Some(3.0), true), Some(1.5));
        assert_eq!(ratio(None, Some(3.0), true), None);
    }
}
