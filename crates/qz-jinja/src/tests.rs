use serde_json::{Map, Value, json};

use super::Template;

fn render(template: &str) -> Result<String, String> {
    let variables = json!({"messages": [{"role": "user", "content": "hello"}], "bos_token": "<s>"});
    let Value::Object(variables) = variables else { unreachable!() };
    let rendered = Template::new(template).and_then(|template| template.render(&variables));
    rendered.map_err(|error| error.to_string())
}

/// What transformers makes of the same templates: see `tests/data/make.py`.
#[test]
fn equal_to_transformers() {
    let cases = include_str!("../tests/data/transformers.json");
    let cases: Value = serde_json::from_str(cases).expect("JSON");
    let Value::Object(variables) = &cases["variables"] else { panic!("no variables") };
    for case in cases["cases"].as_array().expect("cases") {
        let template = case["template"].as_str().expect("a template");
        let rendered = Template::new(template).and_then(|template| template.render(variables));
        match case["text"].as_str() {
            Some(expected) => assert_eq!(rendered.as_deref(), Ok(expected), "{template}"),
            None => assert!(rendered.is_err(), "{template}: {rendered:?}"),
        }
    }
}

/// Python's floats that JSON has no words for.
#[test]
fn floats_without_words_in_json() {
    let template = Template::new("{{ x | tojson }} {{ x[0] + 1 }}").expect("a template");
    let tagged = |word: &str| json!({ "__float__": word });
    let list = json!([tagged("Infinity"), tagged("NaN"), {"__float__": "x"}]);
    let variables = Map::from_iter([("x".to_owned(), list)]);
    let found = template.render(&variables).expect("rendered");
    assert_eq!(found, r#"[Infinity, NaN, {"__float__": "x"}] inf"#);
}

#[test]
fn dates_are_of_one_day() {
    let check = |format: &str, expected: &str| {
        let template = format!("{{{{ strftime_now('{format}') }}}}");
        assert_eq!(render(&template).as_deref(), Ok(expected));
    };
    check("%d %b %Y", "01 Jan 2025");
    check("%B %-d, %Y", "January 1, 2025");
    check("%Y-%m-%d %H:%M:%S %A %%", "2025-01-01 00:00:00 Wednesday %");
}

#[test]
fn errors_name_the_line() {
    let check = |template: &str, expected: &str| {
        let error = render(template).expect_err(template);
        assert!(error.contains(expected), "{template}: {error}");
    };
    check("a\n{{ raise_exception('only two roles') }}", "only two roles (line 2)");
    check("a\n\n{% for %}", "(line 3)");
    check("{% include 'secrets' %}", "there are no other templates");
    check("{% generation %}", "\"endgeneration\" is missing");
    check("{{ messages.append(1) }}", "nothing may be changed");
    check("{{ nothing.at }}", "'nothing' is undefined");
    check("{% break %}", "a loop is left where there is none");
}

/// Templates that would take all stack, memory or time.
#[test]
fn templates_stay_within_the_budget() {
    let budget = "does not come to an end";
    let text = "a text of";
    let deep = "nested deeper than";
    let check = |template: &str, expected: &str| {
        let error = render(template).expect_err(&template[..template.len().min(80)]);
        assert!(error.contains(expected), "{}: {error}", &template[..template.len().min(80)]);
    };
    let print =
        |part: &str, times: usize, last: &str| format!("{{{{ {}{last} }}}}", part.repeat(times));
    check(&print("-", 40_000, "1"), deep);
    check(&print("not ", 40_000, "1"), deep);
    check(&print("1+", 60_000, "1"), deep);
    check(&print("1 or ", 50_000, "1"), deep);
    check(&print("1 if 1 else ", 20_000, "1"), deep);
    check(&format!("{{{{ m{} }}}}", ".a".repeat(100_000)), deep);
    check(&format!("{{{{ m{} }}}}", "|f".repeat(100_000)), deep);
    check(&format!("{{{{ m{} }}}}", "()".repeat(100_000)), deep);
    check(&format!("{{{{ {}{} }}}}", "(".repeat(90_000), ")".repeat(90_000)), deep);
    check(&"{% if 1 %}".repeat(25_000), deep);
    check(&"{% set x=[x] %}".repeat(1000), deep);
    let grown = |values: &str, grow: &str, end: &str| {
        format!(
            "{{% set n=namespace({values}) %}}{{% for i in range(99999) %}}{grow}{{% endfor %}}{end}"
        )
    };
    check(&grown("x=[]", "{% set n.x=[n.x] %}", ""), deep);
    check(&grown("x=[]", "{% set n.x={'a': n.x} %}", ""), deep);
    check(&grown("x=[]", "{% for j in [n.x] %}{% set n.x=loop %}{% endfor %}", ""), deep);
    check(&grown("x=[]", "{% set n.x=[n.x].index %}", ""), deep);
    check("{% set n=namespace() %}{% set n.a=n %}{{ n }}", "no text for");
    check("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", deep);
    check("{% for a in [1] recursive %}{{ loop([1]) }}{% endfor %}", deep);
    check("{{ 'a' * 10**9 }}", text);
    check("{{ [1] * 10**9 }}", budget);
    check("{{ range(10**9) }}", "a range of");
    check("{% set x='a'*500000 %}{{ x.replace('a', x) }}", text);
    check("{% set x='a'*5000 %}{{ x.join(x.join(x)) }}", budget);
    check("{{ 'a' | center(10**9) }}{{ '%999999999d' % 1 }}", text);
    check("{{ [1] | batch(10**9, 'x') | list }}{{ [1] | slice(10**9) }}", budget);
    check("{{ messages | tojson(indent='a'*30000000) }}", text);
    let doubled = "{% set n=namespace(x=['a']) %}{% for i in range(40) %}{% set n.x=[n.x, n.x] %}{% endfor %}";
    check(&format!("{doubled}{{{{ n.x }}}}"), budget);
    check(&format!("{doubled}{{{{ n.x | tojson }}}}"), budget);
    check("{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}", budget);
    check(&"a".repeat(super::MAX_SOURCE + 1), "bytes long");
}
