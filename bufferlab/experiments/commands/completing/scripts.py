"""What each shell is told: to ask ``bufferlab completion`` for the words, a line each, with a tab before what it is."""

from __future__ import annotations

_ASK = "command bufferlab completion --line"

BASH = rf"""# bash: eval "$(bufferlab completion bash)" in ~/.bashrc
_bufferlab() {{
    local line="${{COMP_LINE:0:COMP_POINT}}" word last begun
    # Readline replaces what follows the last = or : of a word and nothing before it.
    last="${{line##*[[:space:]]}}"
    begun="${{last}}"
    begun="${{begun%"${{begun##*["=:"]}}"}}"
    COMPREPLY=()
    while IFS=$'\t' read -r word _; do
        word="${{word#"$begun"}}"
        [[ $last != [\'\"]* && $word == *[[:space:]\'\"\\\$\&\;\|\<\>\(\)\*\?\[]* ]] && printf -v word '%q' "$word"
        COMPREPLY+=("$word")
    done < <({_ASK} "$line" 2>/dev/null)
    [[ ${{#COMPREPLY[@]}} == 1 && ${{COMPREPLY[0]}} == *[=/] ]] && compopt -o nospace 2>/dev/null
    return 0
}}
complete -o nosort -F _bufferlab bufferlab 2>/dev/null || complete -F _bufferlab bufferlab
"""

ZSH = rf"""#compdef bufferlab
# zsh: eval "$(bufferlab completion zsh)" in ~/.zshrc, behind compinit
_bufferlab() {{
    local -a whole open
    local word text
    while IFS=$'\t' read -r word text; do
        word="${{word//:/\\:}}:$text"
        if [[ ${{word%%:$text}} == *[=/] ]]; then open+=("$word"); else whole+=("$word"); fi
    done < <({_ASK} "${{(j: :)words[1,CURRENT-1]}} $PREFIX" 2>/dev/null)
    (( $#whole )) && _describe -V bufferlab whole
    (( $#open )) && _describe -V bufferlab open -S ''
}}
if [[ $funcstack[1] == _bufferlab ]]; then _bufferlab "$@"; else compdef _bufferlab bufferlab; fi
"""

FISH = f"""# fish: bufferlab completion fish > ~/.config/fish/completions/bufferlab.fish
complete -c bufferlab -f -k -a '({_ASK} (commandline -cp | string collect) 2>/dev/null)'
"""

SCRIPTS = {"bash": BASH, "zsh": ZSH, "fish": FISH}
