use serde_json::json;

use super::*;

fn template(text: &str) -> Result<ChatTemplate, Error> {
    let location = Location::file(std::path::Path::new("model")).tensor("tokenizer.chat_template");
    ChatTemplate::new(text, Some("<s>".into()), Some("</s>".into()), location)
}

fn check(text: &str, messages: serde_json::Value, expected: &str) {
    assert_eq!(template(text).expect("a template").render(&messages).expect("text"), expected);
}

#[test]
fn templates_as_models_have_them() {
    let chat = json!([
        {"role": "system", "content": " Be brief. "},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello"},
    ]);
    check(
        "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}{% endfor %}",
        chat.clone(),
        "<|im_start|>system\n Be brief. <|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHello<|im_end|>\n",
    );
    // Llama 2's manner: namespaces, strip, slices, tests, conditions.
    check(
        "{{ bos_token }}{% set ns = namespace(system='') %}\n{%- if messages[0]['role'] == 'system' %}\n{% set ns.system = messages[0]['content'].strip() %}\n{% set messages = messages[1:] %}\n{% endif %}\n{%- for m in messages %}\n{%- if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}\n{%- if m['role'] == 'user' %}[INST] {{ (ns.system ~ ' ' if loop.first else '') + m['content'] }} [/INST]{% elif m.role == 'assistant' %} {{ m['content'] | trim }} {{ eos_token }}{% endif %}\n{%- endfor %}",
        chat,
        "<s>[INST] Be brief. Hi [/INST] Hello </s>",
    );
    // Qwen 3's manner: loops backwards, methods of strings, tests of types, a macro.
    check(
        "{%- macro show(text) %}<{{ text }}>{% endmacro -%}\n{%- for m in messages[::-1] %}\n{%- if m.content is string and m.content.startswith('T:') and not m.content.endswith('!') -%}\n{{- show(m.content.split('T:')[-1].lstrip('\\n')) }}{% continue %}\n{%- endif %}\n{{- m.get('name', 'none') }}\n{%- endfor %}{{ messages | tojson }}",
        json!([{"content": "x!"}, {"content": "T:\nabc"}]),
        "<abc>none[{\"content\": \"x!\"}, {\"content\": \"T:\\nabc\"}]",
    );
}

#[test]
fn methods() {
    let check = |expression: &str, expected: &str| {
        check(&format!("{{{{ {expression} }}}}"), json!([{"a": 1}]), expected);
    };
    check("'  a '.strip()", "a");
    check("'xxaxx'.rstrip('x')", "xxa");
    check("'aBc'.upper() ~ 'aBc'.lower() ~ 'aBc'.title()", "ABCabcAbc");
    check("'a,b,c'.split(',', 1)[1]", "b,c");
    check("' a  b '.split()|length", "2");
    check("'abc'.replace('b', 'x').find('c')", "2");
    check("'abc'.startswith(('x', 'ab'))", "True");
    check("', '.join(['a', 'b'])", "a, b");
    check("messages[0].items()|list|first|first", "a");
    check("messages[0].keys()|join", "a");
}

#[test]
fn failures() {
    let check = |text: &str, expected: &str| {
        let failure = template(text).and_then(|one| one.render(&json!([{"role": "user"}])));
        let message = failure.expect_err("refused").to_string();
        assert!(message.starts_with("model: ") && message.contains(expected), "{message}");
    };
    check("{% for %}", "the chat template fails");
    check("{{ raise_exception('only two roles') }}", "only two roles (line 1)");
    check("{% include 'secrets' %}", "the chat template fails");
    check("{{ messages.nothing() }}", "the chat template fails");
    check(
        "{% for a in range(9999) %}{% for b in range(9999) %}{{ b }}{% endfor %}{% endfor %}",
        "does not come to an end",
    );
}
