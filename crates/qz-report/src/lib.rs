//! Reports as pages that need nothing else: one HTML file with its styles and its charts
//! as SVG, no script, nothing fetched.
//!
//! What belongs here: how tables and charts look. What does not: what their figures
//! mean (`qz-eval`, `qz-pipeline`), writing files.
//!
//! Layer 6: depends on nothing of ours; used by the binary.

#![forbid(unsafe_code)]

mod chart;

use std::fmt::Write as _;

pub use chart::{Chart, Point};

/// A page: title, chart, table, notes.
#[derive(Clone, Debug)]
pub struct Page {
    /// Its title.
    pub title: String,
    /// Its chart.
    pub chart: Chart,
    /// Its table.
    pub table: Table,
    /// Lines below the table.
    pub notes: Vec<String>,
}

/// Rows of text.
#[derive(Clone, Debug)]
pub struct Table {
    /// The columns' names.
    pub header: Vec<String>,
    /// The cells, row by row.
    pub rows: Vec<Vec<String>>,
}

const STYLE: &str = "body{font:16px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:60rem;\
padding:0 1rem;color:#1b1b1b;background:#fff}table{border-collapse:collapse;width:100%;\
font-variant-numeric:tabular-nums}th,td{padding:.3rem .6rem;border-bottom:1px solid #ddd;\
text-align:right}th:first-child,td:first-child{text-align:left}svg{width:100%;height:auto}\
svg text{font:13px system-ui,sans-serif;fill:currentColor}p{color:#555;margin:.3rem 0}\
@media(prefers-color-scheme:dark){body{background:#161616;color:#eee}th,td{border-color:#444}\
p{color:#aaa}}";

impl Page {
    /// The whole file.
    pub fn to_html(&self) -> String {
        let title = escaped(&self.title);
        let mut html = format!(
            "<!DOCTYPE html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n\
             <meta name=\"viewport\" content=\"width=device-width\">\n\
             <title>{title}</title>\n<style>{STYLE}</style>\n<h1>{title}</h1>\n"
        );
        html.push_str(&self.chart.to_svg());
        html.push_str(&self.table.to_html());
        for note in &self.notes {
            let _ = writeln!(html, "<p>{}</p>", escaped(note));
        }
        html.push_str("</html>\n");
        html
    }
}

impl Table {
    fn to_html(&self) -> String {
        let row = |cells: &[String], tag: &str| {
            let cells = cells.iter().map(|cell| format!("<{tag}>{}</{tag}>", escaped(cell)));
            format!("<tr>{}</tr>\n", cells.collect::<String>())
        };
        let rows: String = self.rows.iter().map(|cells| row(cells, "td")).collect();
        format!("<table>\n{}{rows}</table>\n", row(&self.header, "th"))
    }
}

/// Text that is nothing but text.
pub(crate) fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            '"' => out.push_str("&quot;"),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(name: &str) -> Page {
        let point = |name: &str, x: f64, y: f64| Point {
            name: name.to_owned(),
            x,
            y,
            error: Some((y * 0.9, y * 1.1)),
            emphasized: y > 0.01,
        };
        Page {
            title: name.to_owned(),
            chart: Chart {
                x_label: "size".to_owned(),
                y_label: "divergence".to_owned(),
                points: vec![point(name, 100.0, 0.002), point("b", 50.0, 0.2)],
            },
            table: Table { header: vec!["model".to_owned()], rows: vec![vec![name.to_owned()]] },
            notes: vec![name.to_owned()],
        }
    }

    #[test]
    fn names_are_no_markup() {
        let html = page("<script>\"&").to_html();
        assert!(!html.contains("<script"));
        assert_eq!(html.matches("&lt;script&gt;&quot;&amp;").count(), 6);
    }

    #[test]
    fn every_point_is_drawn() {
        let svg = page("a").chart.to_svg();
        assert_eq!(svg.matches("<circle").count(), 2);
        assert!(!svg.contains("NaN") && !svg.contains("inf"));
    }

    #[test]
    fn charts_of_few_and_odd_points() {
        let chart = |values: &[(f64, f64)]| {
            let point = |(x, y): &(f64, f64)| Point {
                name: String::new(),
                x: *x,
                y: *y,
                error: None,
                emphasized: false,
            };
            let points = values.iter().map(point).collect();
            Chart { x_label: String::new(), y_label: String::new(), points }.to_svg()
        };
        for values in [&[][..], &[(1.0, 0.0)], &[(5.0, 0.1), (5.0, 0.1)], &[(1.0, f64::NAN)]] {
            let svg = chart(values);
            assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
        }
    }
}
