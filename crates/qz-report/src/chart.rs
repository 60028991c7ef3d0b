//! Charts of points: the x axis linear from zero, the y axis logarithmic.

use std::fmt::Write as _;

use crate::escaped;

/// Points on two axes.
#[derive(Clone, Debug)]
pub struct Chart {
    /// What x is.
    pub x_label: String,
    /// What y is.
    pub y_label: String,
    /// The points; those whose y is not above zero have no place and are left out.
    pub points: Vec<Point>,
}

/// One point.
#[derive(Clone, Debug)]
pub struct Point {
    /// Its name, beside it.
    pub name: String,
    /// Its place.
    pub x: f64,
    /// Its height.
    pub y: f64,
    /// The interval around its height.
    pub error: Option<(f64, f64)>,
    /// Drawn filled, and joined to the others that are.
    pub emphasized: bool,
}

const WIDTH: f64 = 900.0;
const HEIGHT: f64 = 480.0;
const LEFT: f64 = 80.0;
const BOTTOM: f64 = 430.0;
const TOP: f64 = 20.0;
const RIGHT: f64 = 780.0;

/// Turns numbers into places on the page.
struct Scale {
    largest_x: f64,
    /// Powers of ten.
    lowest: i32,
    highest: i32,
}

impl Scale {
    fn of(points: &[&Point]) -> Self {
        let largest_x = points.iter().map(|point| point.x).fold(0.0, f64::max);
        let logarithms = points.iter().map(|point| libm::log10(point.y));
        let lowest = logarithms.clone().fold(f64::INFINITY, f64::min);
        let highest = logarithms.fold(f64::NEG_INFINITY, f64::max);
        if points.is_empty() {
            return Self { largest_x: 1.0, lowest: -1, highest: 0 };
        }
        let (lowest, highest) = (lowest.floor() as i32, highest.ceil() as i32);
        let largest_x = if largest_x > 0.0 { 1.1 * largest_x } else { 1.0 };
        Self { largest_x, lowest, highest: highest.max(lowest + 1) }
    }

    fn x(&self, value: f64) -> f64 {
        LEFT + (RIGHT - LEFT) * value / self.largest_x
    }

    fn y(&self, value: f64) -> f64 {
        let range = f64::from(self.highest - self.lowest);
        let part = (libm::log10(value) - f64::from(self.lowest)) / range;
        BOTTOM - (BOTTOM - TOP) * part.clamp(0.0, 1.0)
    }
}

impl Chart {
    pub(crate) fn to_svg(&self) -> String {
        let drawable = |point: &&Point| point.y > 0.0 && point.y.is_finite() && point.x.is_finite();
        let points: Vec<&Point> = self.points.iter().filter(drawable).collect();
        let scale = Scale::of(&points);
        let mut svg = format!("<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\">\n");
        self.draw_axes(&scale, &mut svg);
        draw_front(&points, &scale, &mut svg);
        points.iter().for_each(|point| draw_point(point, &scale, &mut svg));
        svg.push_str("</svg>\n");
        svg
    }

    fn draw_axes(&self, scale: &Scale, svg: &mut String) {
        for power in scale.lowest..=scale.highest {
            let value = 10f64.powi(power);
            let y = scale.y(value);
            let _ = writeln!(
                svg,
                "<line x1=\"{LEFT}\" x2=\"{RIGHT}\" y1=\"{y:.1}\" y2=\"{y:.1}\" stroke=\"#8884\"/>\
                 <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{value}</text>",
                LEFT - 8.0,
                y + 4.0
            );
        }
        for tick in 0..=5 {
            let value = scale.largest_x * f64::from(tick) / 5.0;
            let x = scale.x(value);
            let _ = writeln!(
                svg,
                "<line x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{TOP}\" y2=\"{BOTTOM}\" stroke=\"#8884\"/>\
                 <text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{value:.1}</text>",
                BOTTOM + 18.0
            );
        }
        let middle = f64::midpoint(TOP, BOTTOM);
        let _ = writeln!(
            svg,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>\
             <text x=\"16\" y=\"{middle:.1}\" text-anchor=\"middle\" \
             transform=\"rotate(-90 16 {middle:.1})\">{}</text>",
            f64::midpoint(LEFT, RIGHT),
            BOTTOM + 40.0,
            escaped(&self.x_label),
            escaped(&self.y_label),
        );
    }
}

/// The line through the emphasized points.
fn draw_front(points: &[&Point], scale: &Scale, svg: &mut String) {
    let mut front: Vec<&&Point> = points.iter().filter(|point| point.emphasized).collect();
    front.sort_by(|a, b| a.x.total_cmp(&b.x));
    let places: Vec<String> = front
        .iter()
        .map(|point| format!("{:.1},{:.1}", scale.x(point.x), scale.y(point.y)))
        .collect();
    let _ = writeln!(
        svg,
        "<polyline points=\"{}\" fill=\"none\" stroke=\"#2a78d6\" stroke-width=\"2\"/>",
        places.join(" ")
    );
}

fn draw_point(point: &Point, scale: &Scale, svg: &mut String) {
    let (x, y) = (scale.x(point.x), scale.y(point.y));
    if let Some((lower, upper)) = point.error.filter(|(lower, upper)| *lower > 0.0 && *upper > 0.0)
    {
        let (lower, upper) = (scale.y(lower), scale.y(upper));
        let _ = writeln!(
            svg,
            "<line x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{lower:.1}\" y2=\"{upper:.1}\" \
             stroke=\"#2a78d6\"/>"
        );
    }
    let fill = if point.emphasized { "#2a78d6" } else { "none" };
    let name = escaped(&point.name);
    let _ = writeln!(
        svg,
        "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"5\" fill=\"{fill}\" stroke=\"#2a78d6\" \
         stroke-width=\"2\"><title>{name}: {:.4}, {:.6}</title></circle>\
         <text x=\"{:.1}\" y=\"{:.1}\">{name}</text>",
        point.x,
        point.y,
        x + 9.0,
        y - 7.0
    );
}
