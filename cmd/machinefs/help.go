package main

// usageTemplate is cobra's, made shorter. The examples are last: there a reader's eye is after the
// help scrolled by.
const usageTemplate = `Usage:
  {{if .HasAvailableSubCommands}}{{.CommandPath}} COMMAND [flags]

Commands:{{range .Commands}}{{if .IsAvailableCommand}}
  {{rpad .Name .NamePadding}} {{.Short}}{{end}}{{end}}{{else}}{{.UseLine}}{{end}}{{if .HasAvailableLocalFlags}}

Flags:
{{.LocalFlags.FlagUsages | trimTrailingWhitespaces}}{{end}}{{if .HasAvailableInheritedFlags}}

Flags of all commands: see {{.Root.Name}} --help{{end}}{{if .HasExample}}

Examples:
{{.Example}}{{end}}
`
