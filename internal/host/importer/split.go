package importer

import "strings"

// splitWords splits a command line into words as a shell does, without expanding
// anything. at gives the line of each word from the number of line ends before it.
func splitWords(text string, at func(lines int) place) (words []word) {
	var b strings.Builder
	begun, lines, first := false, 0, 0
	quote := rune(0)
	flush := func() {
		if begun {
			words = append(words, word{b.String(), at(first)})
		}
		b.Reset()
		begun = false
	}
	escaped := false
	for _, r := range text {
		if !begun {
			first = lines
		}
		if r == '\n' {
			lines++
		}
		switch {
		case escaped:
			if escaped = false; r == '\n' {
				continue
			}
			b.WriteRune(r)
			begun = true
		case r == '\\' && quote != '\'':
			escaped = true
		case quote != 0 && r == quote:
			quote = 0
		case quote == 0 && (r == '\'' || r == '"'):
			quote, begun = r, true
		case quote == 0 && strings.ContainsRune(" \t\n", r):
			flush()
		default:
			b.WriteRune(r)
			begun = true
		}
	}
	flush()
	return words
}

// commandLine splits a scalar that holds arguments. YAML folds lines, so words of
// a block are looked for in the file's own lines.
func (v value) commandLine(lines []string) []word {
	from := v.at().line - 1
	line := from
	words := splitWords(v.text(), func(int) place { return v.at() })
	for i := range words {
		look := strings.SplitN(words[i].text, hole, 2)[0]
		if look == "" {
			look = "{{"
		}
		for l := max(line, 0); l < len(lines) && l < from+200; l++ {
			if strings.Contains(lines[l], look) {
				line = l
				words[i].at = place{v.file, l + 1}
				break
			}
		}
	}
	return words
}
