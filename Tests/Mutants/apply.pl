#!/usr/bin/perl
# apply.pl MUTANT TREE UNDO: makes the mutant's edits in TREE, and keeps the files as they were below UNDO.
# apply.pl --undo UNDO TREE: puts them back.
#
# A mutant is a text file: a line that says what is broken, lines "key: value" (rule, tests), then one or more edits:
#
#     file: Sources/...
#     <<<<
#     lines as they are
#     ====
#     lines as they become
#     >>>>
#
# What stands between the marks must be in the file exactly once, or nothing is changed and the status is 1: a mutant
# that the code has left behind is to be noticed.
use strict;
use warnings;
use File::Basename;
use File::Copy;
use File::Path;

sub contents { my ($path) = @_; open my $in, '<', $path or die "$path: $!\n"; local $/; return scalar <$in>; }
sub store { my ($path, $text) = @_; open my $out, '>', $path or die "$path: $!\n"; print $out $text; close $out or die; }

die "usage: apply.pl MUTANT TREE UNDO, or apply.pl --undo UNDO TREE\n" unless @ARGV == 3 && !grep { $_ eq '' } @ARGV;
if ($ARGV[0] eq '--undo') {
    my ($undo, $tree) = @ARGV[1, 2];
    for my $path (split /\n/, contents("$undo/list")) { store("$tree/$path", contents("$undo/$path")); }
    rmtree($undo);
    exit 0;
}

my ($mutant, $tree, $undo) = @ARGV;
my (%before, %after, $file, $state, $old, $new);
for my $line (split /^/, contents($mutant)) {
    if (!$state && $line =~ /^file: *(\S+)/) { $file = $1; }
    elsif ($line eq "<<<<\n") { ($state, $old, $new) = ('old', '', ''); }
    elsif ($line eq "====\n") { $state = 'new'; }
    elsif ($line eq ">>>>\n") {
        die "$mutant: an edit before its file\n" unless $file;
        $before{$file} //= contents("$tree/$file");
        $after{$file} //= $before{$file};
        my $count = () = $after{$file} =~ /^\Q$old\E/mg;
        die "the place in $file is there $count times: bring the mutant up to date\n" unless $count == 1;
        $after{$file} =~ s/^\Q$old\E/$new/m;
        undef $state;
    }
    elsif ($state) { $state eq 'old' ? ($old .= $line) : ($new .= $line); }
}
die "$mutant: no edit\n" unless %after;
for my $path (keys %after) {
    mkpath(dirname("$undo/$path"));
    store("$undo/$path", $before{$path});
    store("$tree/$path", $after{$path});
}
store("$undo/list", join("\n", sort keys %after) . "\n");
