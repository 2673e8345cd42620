//! Phrases in languages other than English, written for the samples; `{x}` stands for the story's name.

use crate::phrases::Mood::{self, Anger, Fear, Joy, Love, Neutral, Sadness, Surprise};

/// A language of the samples.
pub(crate) struct Language {
    /// BCP 47.
    pub(crate) code: &'static str,
    /// How often it is drawn, relative to the others of the list.
    pub(crate) weight: u32,
    pub(crate) phrases: &'static [(Mood, &'static [&'static str])],
}

pub(crate) const OTHERS: &[Language] = &[
    Language {
        code: "es",
        weight: 6,
        phrases: &[
            (
                Joy,
                &[
                    "¡qué alegría, {x}! no me lo creo todavía",
                    "hoy todo sale bien, gracias vida",
                    "¡GOOOL de {x}!",
                    "por fin viernes, a disfrutar",
                ],
            ),
            (
                Love,
                &[
                    "te quiero mucho, {x}, gracias por tanto",
                    "mi abuela cocinando y cantando, no hay nada mejor",
                ],
            ),
            (
                Anger,
                &[
                    "otra vez sin servicio, {x}, qué vergüenza",
                    "estoy harto de que nos mientan",
                    "¿tres horas para esto? inaceptable",
                ],
            ),
            (
                Sadness,
                &[
                    "se acaba una época, adiós {x}",
                    "hoy no tengo ganas de nada, la echo de menos",
                    "me rompe el corazón ver esto",
                ],
            ),
            (
                Fear,
                &[
                    "el viento da miedo, {x} ya está aquí",
                    "no puedo dormir, estoy muy preocupada por mi familia",
                ],
            ),
            (Surprise, &["¿en serio? ¿{x} hizo eso?", "me he quedado sin palabras"]),
            (
                Neutral,
                &[
                    "alguien sabe a qué hora empieza lo de {x}?",
                    "resumen de {x} en el enlace",
                ],
            ),
        ],
    },
    Language {
        code: "fr",
        weight: 4,
        phrases: &[
            (
                Joy,
                &[
                    "quelle soirée, {x}, je suis aux anges !",
                    "le soleil, un café, et la vie est belle",
                    "on a gagné, on a gagné !",
                ],
            ),
            (
                Love,
                &[
                    "merci {x}, je t'aime depuis toujours",
                    "mon petit frère m'a fait un dessin, je fonds",
                ],
            ),
            (
                Anger,
                &[
                    "encore en panne, {x}, c'est une honte",
                    "ras-le-bol des retards, vraiment ras-le-bol",
                ],
            ),
            (
                Sadness,
                &[
                    "je n'arrive pas à croire que {x}, c'est fini",
                    "il me manque tellement ce soir",
                ],
            ),
            (
                Fear,
                &[
                    "{x} arrive et j'ai vraiment peur",
                    "les fenêtres tremblent, restez chez vous",
                ],
            ),
            (
                Surprise,
                &["attends, quoi ?! {x} a réussi ?", "je ne m'y attendais pas du tout"],
            ),
            (
                Neutral,
                &["quelqu'un a des nouvelles de {x} ?", "réunion déplacée à 14 h, salle 3"],
            ),
        ],
    },
    Language {
        code: "de",
        weight: 4,
        phrases: &[
            (
                Joy,
                &[
                    "so ein schöner Abend, danke {x}!",
                    "Prüfung bestanden, ich könnte die ganze Welt umarmen",
                    "endlich wieder Grund zum Feiern",
                ],
            ),
            (
                Love,
                &[
                    "{x}, du hast mir so viel gegeben, danke",
                    "meine Tochter hat heute zum ersten Mal 'Papa' gesagt",
                ],
            ),
            (
                Anger,
                &[
                    "schon wieder kein Netz, {x}, das ist eine Frechheit",
                    "vierzig Minuten Warteschleife und dann aufgelegt. Unverschämt.",
                ],
            ),
            (
                Sadness,
                &[
                    "heute ist alles grau, sie fehlt mir",
                    "das war's also mit {x}, mir laufen die Tränen",
                ],
            ),
            (
                Fear,
                &[
                    "der Sturm wird immer lauter, ich habe Angst",
                    "{x} kommt direkt auf uns zu, passt auf euch auf",
                ],
            ),
            (
                Surprise,
                &[
                    "Moment mal, {x} hat WAS geschafft?",
                    "damit hätte ich im Leben nicht gerechnet",
                ],
            ),
            (
                Neutral,
                &[
                    "kurzer Überblick zu {x}, mehr im Link",
                    "Fundstück: roter Schirm, liegt am Bahnhof",
                ],
            ),
        ],
    },
    Language {
        code: "pt",
        weight: 5,
        phrases: &[
            (
                Joy,
                &[
                    "que noite linda, {x}! tô muito feliz",
                    "passei na prova, obrigada meu Deus",
                    "sextou com sol e música boa",
                ],
            ),
            (
                Love,
                &[
                    "amo demais, {x}, obrigada por tudo",
                    "minha mãe é a melhor pessoa do mundo",
                ],
            ),
            (
                Anger,
                &["de novo fora do ar, {x}? absurdo", "cansei dessa falta de respeito"],
            ),
            (
                Sadness,
                &["não acredito que {x} acabou, tô chorando", "que saudade do meu avô"],
            ),
            (
                Fear,
                &[
                    "tô com medo, a água tá subindo por causa de {x}",
                    "alguém mais não consegue dormir com esse vento?",
                ],
            ),
            (Surprise, &["gente, {x} fez isso MESMO?", "tô em choque"]),
            (
                Neutral,
                &["a que horas começa {x}?", "novo horário do ônibus a partir de segunda"],
            ),
        ],
    },
    Language {
        code: "it",
        weight: 2,
        phrases: &[
            (
                Joy,
                &[
                    "che gioia immensa, {x}!",
                    "domenica, pasta al forno e tutta la famiglia: felicità",
                ],
            ),
            (
                Love,
                &["ti voglio bene, {x}, grazie di tutto", "innamorata di questa città"],
            ),
            (
                Anger,
                &["{x} di nuovo bloccato, siete ridicoli", "basta, non se ne può più"],
            ),
            (
                Sadness,
                &["non ci posso credere, {x} è finita così", "oggi mi manca tantissimo"],
            ),
            (
                Fear,
                &["{x} fa paura, restate a casa", "trema tutto, ho il cuore in gola"],
            ),
            (Surprise, &["ma davvero {x} ce l'ha fatta?", "sono senza parole"]),
            (
                Neutral,
                &["qualcuno ha un link su {x}?", "mercato spostato in piazza Verdi"],
            ),
        ],
    },
    Language {
        code: "ja",
        weight: 5,
        phrases: &[
            (
                Joy,
                &[
                    "{x}最高すぎる!!今日は一日中にやにやしてる",
                    "合格しました、本当にうれしい",
                    "天気がよくてパンもおいしい、幸せ",
                ],
            ),
            (Love, &["{x}、ずっと大好きです。ありがとう", "うちの猫が世界一かわいい"]),
            (
                Anger,
                &[
                    "{x}また繋がらない、いい加減にしてほしい",
                    "二時間待たされて説明なし。ふざけるな",
                ],
            ),
            (Sadness, &["{x}が終わってしまって涙が止まらない", "今日はとても寂しい"]),
            (
                Fear,
                &["{x}の風の音が怖くて眠れない", "停電した。怖い。みんな無事でいて"],
            ),
            (Surprise, &["え、{x}まじで?信じられない", "びっくりして声が出た"]),
            (Neutral, &["{x}の時間を教えてください", "本日の営業は18時までです"]),
        ],
    },
    Language {
        code: "ar",
        weight: 3,
        phrases: &[
            (
                Joy,
                &[
                    "يا لها من ليلة جميلة مع {x}",
                    "نجحت في الامتحان والحمد لله",
                    "أسعد يوم في حياتي",
                ],
            ),
            (Love, &["أحبك يا {x} من كل قلبي", "أمي هي كل حياتي"]),
            (Anger, &["{x} مقطوعة مرة أخرى، هذا غير مقبول", "تعبنا من الكذب"]),
            (Sadness, &["لا أصدق أن {x} انتهت", "قلبي حزين اليوم"]),
            (Fear, &["العاصفة {x} تقترب وأنا خائفة", "لا أستطيع النوم من القلق"]),
            (Surprise, &["معقول؟ {x} فعلتها!", "لم أتوقع هذا أبدا"]),
            (Neutral, &["متى يبدأ {x}؟", "الاجتماع غدا الساعة العاشرة"]),
        ],
    },
    Language {
        code: "tr",
        weight: 3,
        phrases: &[
            (
                Joy,
                &[
                    "{x} bizi çok mutlu etti, harika bir gece!",
                    "sınavı geçtim, inanamıyorum!",
                ],
            ),
            (
                Love,
                &[
                    "seni çok seviyorum {x}, iyi ki varsın",
                    "kedim kucağımda uyudu, dünyalar benim",
                ],
            ),
            (
                Anger,
                &["{x} yine çalışmıyor, rezalet", "yeter artık, bıktık bu yalanlardan"],
            ),
            (
                Sadness,
                &["{x} bitti, içim paramparça", "bugün çok üzgünüm, onu özledim"],
            ),
            (
                Fear,
                &["{x} geliyor, çok korkuyorum", "camlar titriyor, dışarı çıkmayın"],
            ),
            (Surprise, &["nasıl yani, {x} gerçekten başardı mı?", "şok oldum"]),
            (Neutral, &["{x} saat kaçta başlıyor?", "toplantı yarına ertelendi"]),
        ],
    },
    Language {
        code: "id",
        weight: 3,
        phrases: &[
            (
                Joy,
                &[
                    "senang banget hari ini, makasih {x}!",
                    "akhirnya lulus juga, alhamdulillah",
                ],
            ),
            (
                Love,
                &[
                    "sayang banget sama {x}, terima kasih untuk semuanya",
                    "ibu masak rendang, nikmat mana lagi",
                ],
            ),
            (
                Anger,
                &["{x} gangguan lagi, parah banget sih", "udah nunggu dua jam, kesel"],
            ),
            (Sadness, &["sedih banget {x} sudah selesai", "kangen rumah malam ini"]),
            (
                Fear,
                &[
                    "takut, anginnya kencang sekali gara-gara {x}",
                    "listrik mati, semoga semua selamat",
                ],
            ),
            (Surprise, &["hah, {x} beneran bisa?", "kaget banget sumpah"]),
            (
                Neutral,
                &["ada yang punya info soal {x}?", "jadwal kereta berubah mulai besok"],
            ),
        ],
    },
    Language {
        code: "hi",
        weight: 2,
        phrases: &[
            (Joy, &["{x} ने आज दिल खुश कर दिया!", "परीक्षा पास हो गई, बहुत खुशी हो रही है"]),
            (Love, &["{x}, तुमसे बहुत प्यार है", "माँ के हाथ का खाना, और क्या चाहिए"]),
            (Anger, &["{x} फिर से बंद है, बहुत गुस्सा आ रहा है", "ये लोग कब सुधरेंगे"]),
            (Sadness, &["{x} खत्म हो गया, मन उदास है", "आज उसकी बहुत याद आ रही है"]),
            (Fear, &["{x} से डर लग रहा है, सब सुरक्षित रहें", "पूरी रात नींद नहीं आई"]),
            (Surprise, &["क्या सच में? {x} ने कर दिखाया!"]),
            (Neutral, &["{x} कितने बजे शुरू होगा?"]),
        ],
    },
];
